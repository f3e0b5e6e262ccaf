"""Which examples the clients of a stack see at each step, and what each example weighs in its minibatch's loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fl.client import steps_of
from fl.config import Config
from fl.device import send
from fl.rng import shuffles


class Member(NamedTuple):
    """Client k of a stack, whose examples are the n_k of Partition.indices from `start` on."""

    k: int
    start: int
    n_k: int


def schedule(
    config: Config, t: int, members: Sequence[Member], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """rows (S, steps, B) int64: positions in Partition.indices; weights (S, steps, B): 1 / b_k, and 0 for padding.

    members: those with more examples first. Clients that are done before the others have rows of padding only.
    """
    E = config.local_epoch
    largest = members[0].n_k
    B = min(config.batch_size or largest, largest)
    most = steps_of(config, largest)
    rows, weights = [], []
    for n, same in groupby(members, key=lambda one: one.n_k):
        streams = [(k, e, start) for k, start, _ in same for e in range((t - 1) * E, t * E)]
        starts = send([start for _, _, start in streams], torch.int64, device)
        own = shuffles(config.seed, [(k, e) for k, e, _ in streams], n, device)  # (streams, n)
        own = own.add_(starts.unsqueeze(1))
        own = own if n % B == 0 else F.pad(own, (0, -n % B))
        steps = steps_of(config, n)
        own = own.view(-1, steps, B)  # (clients of that size, steps, B)
        missing = (0, 0, 0, most - steps)
        rows.append(own if steps == most else F.pad(own, missing))
        each = weights_of(n, B, E, dtype, device)
        weights.append((each if steps == most else F.pad(each, missing)).expand(len(own), most, B))
    return (rows[0], weights[0]) if len(rows) == 1 else (torch.cat(rows), torch.cat(weights))


@lru_cache(maxsize=64)
def weights_of(n: int, B: int, E: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(E ceil(n / B), B): what the examples of a client of n weigh, epoch after epoch."""
    real = (torch.arange(n + -n % B, device=device) < n).view(-1, B).to(dtype)
    return (real / real.sum(1, keepdim=True)).repeat(E, 1)
