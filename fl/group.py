"""The processes that share out the clients of each round.

Every rank draws the same cohort, trains its share of the clients, and computes the same new model from sums over all
ranks. Rank 0 alone decides whether another round begins, records and prints. `Group` is the interface through which the
ranks communicate, and itself serves a process that is alone; fl/processes/distributed.py is the group of several.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class Group:
    """The processes of this run; alone, a group of one whose operations do nothing."""

    rank = 0
    size = 1
    awaited = False  # whether the other ranks wait to hear of another round
    device: torch.device | None = None  # of this rank; None lets --device decide

    def share(self, sizes: Mapping[int, int]) -> list[int]:
        """This rank's clients, ascending. sizes: n_k of the round's clients.

        Clients are dealt out from the largest on, each to the rank with the least work so far.
        """
        if self.size == 1:
            return sorted(sizes)
        load = [0] * self.size
        mine = []
        for k, n_k in sorted(sizes.items(), key=lambda pair: (-pair[1], pair[0])):
            rank = load.index(min(load))
            load[rank] += n_k
            if rank == self.rank:
                mine.append(k)
        return sorted(mine)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the ranks' tensors, in place, at every rank."""
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """The elementwise maximum of the ranks' tensors, in place, at every rank."""
        return tensor

    def from_first(self, tensor: Tensor) -> Tensor:
        """Rank 0's tensor, in place, at every rank."""
        return tensor

    def content_from(self, rank: int, content: Any) -> Any:
        """The tensors, numbers, strings, dicts and lists of one rank, at every rank; on the CPU."""
        return content

    def secret(self) -> bytes:
        """32 bytes from the operating system's secure generator, the same at every rank."""
        return bytes.fromhex(self.content_from(0, os.urandom(32).hex()))

    def union(self, content: dict[int, Any]) -> dict[int, Any]:
        """The ranks' dicts, which share no key, put together at every rank."""
        parts = [self.content_from(rank, content) for rank in range(self.size)]
        return {key: value for part in parts for key, value in part.items()}

    def rounds(self, first: int, last: int) -> Iterator[int]:
        """The numbers of the rounds, as long as rank 0 asks for another."""
        return iter(range(first, last + 1))

    def end_rounds(self) -> None:
        """End the rounds, also before the last one: tell ranks that wait for a round that no further one begins."""

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *exception: object) -> None:
        pass
