"""The rounds of an experiment with another partition or other flags than its own, for tests."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from data.partition import Partition
from fl.config import Config
from fl.engines.engine import Engine
from fl.experiment import Experiment
from fl.group import Group
from fl.recorded import Round, federated_rounds

ALONE = Group()


def run_rounds(
    x: Experiment, partition: Partition, engine: Engine, c: Config, group: Group = ALONE, start: Round | None = None
) -> Generator[Round]:
    return federated_rounds(replace(x, partition=partition, config=c), engine, group, start)
