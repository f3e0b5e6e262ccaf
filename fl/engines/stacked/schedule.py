"""Which examples the clients of a stack see at each step, and what each example weighs in its minibatch's loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from data.dataset import Dataset
from fl.client import steps_of
from fl.config import Config
from fl.device import send
from fl.rng import shuffles, visit_draws


class Member(NamedTuple):
    """Client k of a stack, whose examples are the n_k of Partition.indices from `start` on, and its epochs."""

    k: int
    start: int
    n_k: int
    E: int


class Schedule(NamedTuple):
    """What the clients of a stack see, step by step: (S, steps, B) each.

    rows: int64 positions in Partition.indices. weights: of the examples in their minibatch's loss, 1 / b_k, and 0 for
    padding. draws: int64, what augmentation is drawn from; None where the data set does not augment.
    """

    rows: Tensor
    weights: Tensor
    draws: Tensor | None


def schedule(config: Config, t: int, members: Sequence[Member], data: Dataset) -> Schedule:
    """The steps of round t.

    members: those with more steps first. Clients that are done before the others have rows of padding only.
    """
    before, device = (t - 1) * config.local_epoch, data.train.targets.device
    B = min(config.batch_size or members[0].n_k, members[0].n_k)
    most = steps_of(config, members[0].n_k, members[0].E)

    def in_steps(visits: Tensor, n: int, E: int) -> Tensor:
        """(streams, n), with E streams for each client, to (clients, most, B), padded with zeros."""
        visits = visits if n % B == 0 else F.pad(visits, (0, -n % B))
        steps = steps_of(config, n, E)
        visits = visits.view(-1, steps, B)
        return visits if steps == most else F.pad(visits, (0, 0, 0, most - steps))

    rows, weights, draws = [], [], []
    for (n, E), same in groupby(members, key=lambda one: (one.n_k, one.E)):
        streams = [(one.k, e, one.start) for one in same for e in range(before, before + E)]
        starts = send([start for _, _, start in streams], torch.int64, device)
        visited = [(k, e) for k, e, _ in streams]
        rows.append(in_steps(shuffles(config.seed, visited, n, device).add_(starts.unsqueeze(1)), n, E))
        if data.augment:
            draws.append(in_steps(visit_draws(config.seed, visited, n, device), n, E))
        each = weights_of(n, B, E, data.dtype, device)
        each = each if len(each) == most else F.pad(each, (0, 0, 0, most - len(each)))
        weights.append(each.expand(len(rows[-1]), most, B))
    return Schedule(joined(rows), joined(weights), joined(draws) if draws else None)


def joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@lru_cache(maxsize=64)
def weights_of(n: int, B: int, E: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(E ceil(n / B), B): what the examples of a client of n weigh, epoch after epoch."""
    real = (torch.arange(n + -n % B, device=device) < n).view(-1, B).to(dtype)
    return (real / real.sum(1, keepdim=True)).repeat(E, 1)
