"""Data that change while the federation trains: --data_drift. In each round a client holds a part of what it owns.

grow: data arrive. A client begins with a share f of its examples, and the others come at an even pace, in an order
drawn from the seed, until it has all of them after R rounds.

shift: a client sees its labels in turn. It holds a share f of its examples at any time: a window over them in the order
of their labels, which goes around once in R rounds. Where it begins is drawn for each client, so that clients change
at different times, as in Jothimurugesan, Hsieh, Wang, Joshi and Gibbons 2023, "Federated Learning under Distributed
Concept Drift", arXiv 2206.00799. What changes here is how often a label comes and not which label an example has. Gama,
Zliobaite, Bifet, Pechenizkiy and Bouchachia 2014, "A Survey on Concept Drift Adaptation", call the first virtual and
the second real drift.

Each is a function (partition, labels, seed, share, rounds) that returns what the clients hold in round t, counted from
1. That follows from t alone, so a resumed run and every process of a run see the same. Every client holds at least one
example, and the number of clients stays the same. A round costs a pass over the indices of all examples, however few
clients are called.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from data.partition import Partition
from fl.rng import uniforms

Held = Callable[[int], Partition]  # by round


def none(partition: Partition, labels: Tensor, seed: int, share: float, rounds: int) -> Held:
    """All of it in every round, and the very same object."""
    return lambda t: partition


def grow(partition: Partition, labels: Tensor, seed: int, share: float, rounds: int) -> Held:
    """ceil((f + (1 - f) min((t - 1) / R, 1)) n_k) of client k's n_k examples. labels are not looked at."""
    n_k = partition.sizes

    def window(t: int) -> tuple[Tensor, Tensor]:
        grown = share + (1 - share) * min((t - 1) / rounds, 1.0)
        return torch.zeros_like(n_k), at_least_one(grown, n_k)

    return windows(partition, uniforms(seed, "drift", n=len(partition.indices)), window)


def shift(partition: Partition, labels: Tensor, seed: int, share: float, rounds: int) -> Held:
    """A window of ceil(f n_k) of client k's examples in the order of their labels; it wraps round at the end.

    labels (n,) int64 on the CPU. Examples of one label are shuffled.
    """
    n_k = partition.sizes
    begin = (uniforms(seed, "drift begins", n=len(partition)) * n_k).long()

    def window(t: int) -> tuple[Tensor, Tensor]:
        return (begin + (t - 1) * n_k // rounds) % n_k, at_least_one(share, n_k)

    shuffled = uniforms(seed, "drift", n=len(partition.indices))
    return windows(partition, labels[partition.indices] + shuffled, window)


def at_least_one(share: float, n_k: Tensor) -> Tensor:
    """ceil(share n_k), from 1 to n_k. A product such as 0.07 x 100 is a little above what it should be."""
    return torch.ceil(share * n_k.double() - 1e-9).long().clamp_(min=1).minimum(n_k)


def windows(partition: Partition, order: Tensor, window: Callable[[int], tuple[Tensor, Tensor]]) -> Held:
    """In round t client k holds a window of its sorted examples: count[k] from position first[k] on, wrapping round.

    order (n,): the key by which a client's examples are sorted, for each entry of partition.indices. window(t): first
    and count, (K,) int64 each. The returned partition lists a client's examples in the old order, not the sorted one.
    """
    owner = torch.repeat_interleave(torch.arange(len(partition)), partition.sizes)
    by_order = order.argsort(stable=True)
    in_line = by_order[owner[by_order].argsort(stable=True)]  # client 0's examples in its order, then client 1's
    place = torch.empty_like(in_line)
    place[in_line] = torch.arange(len(owner)) - partition.offsets[owner]
    n_k = partition.sizes[owner]

    @lru_cache(maxsize=1)  # because a round asks several times
    def held(t: int) -> Partition:
        first, count = window(max(t, 1))
        after = place - first[owner]
        after += (after < 0) * n_k
        offsets = torch.cat([count.new_zeros(1), count.cumsum(0)])
        return Partition(partition.indices[after < count[owner]], offsets)

    return held
