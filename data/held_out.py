"""What each client keeps of its own examples for a test."""

from __future__ import annotations

import torch

from data.partition import Partition
from fl.errors import FlagError
from fl.rng import uniforms


def hold_out(partition: Partition, fraction: float, seed: int) -> tuple[Partition, Partition]:
    """What clients train on, and what they are tested on: round(fraction n_k) of client k's n_k examples.

    At least one, and never all of them: a client with one example trains on it, and has no test. Which ones these
    are follows from the seed and the indices of the examples alone. In the second partition clients may have no
    examples. Raises FlagError if nobody has a test.
    """
    sizes = partition.sizes
    count = (sizes * fraction).round().long().clamp(min=1).minimum(sizes - 1)  # (K,)
    if not int(count.sum()):
        raise FlagError(
            f"--client_test_fraction {fraction:g}: each of the {len(partition)} clients has one example and needs it "
            "to train on; lower --num_clients"
        )
    owners = torch.repeat_interleave(torch.arange(len(partition)), sizes)
    n = int(partition.indices.max()) + 1
    order = uniforms(seed, "client_test", n=n)[partition.indices].argsort(stable=True)
    order = order[owners[order].argsort(stable=True)]  # client after client, the examples of each in the order drawn
    is_test = torch.empty_like(owners, dtype=torch.bool)
    is_test[order] = torch.arange(len(owners)) - partition.offsets[owners] < count[owners]
    none = torch.zeros(1, dtype=torch.int64)
    return (
        Partition(partition.indices[~is_test], torch.cat([none, (sizes - count).cumsum(0)])),
        Partition(partition.indices[is_test], torch.cat([none, count.cumsum(0)])),
    )
