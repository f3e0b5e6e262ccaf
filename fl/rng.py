"""Randomness without state: every stream follows from (seed, purpose, round, client), never from what ran before.

So cohorts do not depend on the algorithm, every engine sees the same batches on every device, and a resumed
run needs no generator state.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from fl.device import send

GOLDEN = 0x9E3779B97F4A7C15 - 2**64


def derive(seed: int, purpose: str, *key: int) -> int:
    """A 63-bit number that is a hash of its arguments."""
    text = "/".join(map(str, (seed, purpose, *key)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


@contextmanager
def seeded(seed: int, purpose: str, *key: int) -> Iterator[None]:
    """Seed torch's CPU generator from the arguments inside the block, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, purpose, *key))
        yield


def seed_training(device: torch.device, *key: int) -> None:
    """Seed what models on the device draw from while they train, such as dropout, by (seed, round, client).

    Unlike torch.manual_seed, this seeds only the CPU and `device`. torch.manual_seed also stores a traceback for each
    kind of accelerator that this machine does not have.
    """
    value = derive(key[0], "training", *key[1:])
    torch.default_generator.manual_seed(value)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(value)


def select_clients(seed: int, t: int, num_clients: int, m: int) -> list[int]:
    """S_t of Algorithm 1: m of `num_clients` clients, uniform without replacement, ascending.

    Costs O(m), whatever the number of clients.
    """
    return sorted(random.Random(derive(seed, "cohort", t)).sample(range(num_clients), m))


def shuffles(seed: int, streams: Sequence[tuple[int, int]], n: int, device: torch.device) -> Tensor:
    """One permutation of range(n) for each (client, pass) stream: (len(streams), n) int64.

    Passes over a client's data are counted from 0 through the whole run: epoch e of round t is pass
    (t - 1) E + e. So one client with all the data sees the centralised baseline's batches, whatever E is.

    The permutation sorts random integers, one for each example. Those of a stream are distinct, and integers sort
    alike everywhere, so the same batches come out on every device and for any grouping of streams.
    """
    return splitmix64([derive(seed, "batches", *stream) for stream in streams], n, device).argsort(dim=1)


def visit_draws(seed: int, streams: Sequence[tuple[int, int]], n: int, device: torch.device) -> Tensor:
    """What the augmentation of n examples is drawn from: (len(streams), n) int64 of 64 random bits.

    Entry i of the (client, pass) stream belongs to the i-th example that the client visits in that pass, in the order
    of `shuffles`. So every engine, every device, a resumed run and the centralised baseline augment alike.
    """
    return splitmix64([derive(seed, "augment", *stream) for stream in streams], n, device)


def uniforms(seed: int, purpose: str, *key: int, n: int) -> Tensor:
    """(n,) float64 on the CPU, uniform in [0, 1): one for each client, say."""
    bits = splitmix64([derive(seed, purpose, *key)], n, torch.device("cpu"))[0]
    return (bits >> 11).bitwise_and_(2**53 - 1).double() * 2.0**-53


def splitmix64(starts: Sequence[int], n: int, device: torch.device) -> Tensor:
    """The first n outputs of splitmix64 (Steele, Lea and Flood 2014) for each start: (len(starts), n) int64."""
    z = send(starts, torch.int64, device)[:, None] + _weyl(n, device)  # wraps modulo 2^64
    # An arithmetic shift copies the sign bit; the masks make it the logical shift of the original.
    z = (z >> 30).bitwise_and_(2**34 - 1).bitwise_xor_(z).mul_(0xBF58476D1CE4E5B9 - 2**64)
    z = (z >> 27).bitwise_and_(2**37 - 1).bitwise_xor_(z).mul_(0x94D049BB133111EB - 2**64)
    return (z >> 31).bitwise_and_(2**33 - 1).bitwise_xor_(z)


@lru_cache(maxsize=64)
def _weyl(n: int, device: torch.device) -> Tensor:
    """(n,) int64: what n steps of splitmix64 add to its start."""
    return GOLDEN * torch.arange(1, n + 1, device=device)
