"""Who is called to a round, and who answers: known before anyone trains, because it follows from the seed alone."""

from __future__ import annotations

from typing import NamedTuple

from data.partition import Partition
from fl.config import Config
from fl.rng import select_clients


class Cohort(NamedTuple):
    """called: S_t, ascending. reporting: those of them who send an update; the others do not train."""

    called: list[int]
    reporting: list[int]


def cohort(config: Config, partition: Partition, t: int) -> Cohort:
    """S_t of Algorithm 1: m clients, uniform without replacement, all of whom report."""
    S_t = select_clients(config.seed, t, len(partition), config.num_select_clients)
    return Cohort(S_t, S_t)
