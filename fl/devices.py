"""The devices that clients run on: when they can be called, how fast they are, what becomes of them in a round.

Everything follows from the seed, and nothing from what ran before. The states are those of Bonawitz et al. 2019,
"Towards Federated Learning at Scale", arXiv 1902.01046, section 3: a phone takes part while it is charging, on an
unmetered network and idle, which is mostly so at night.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fl.config import DEFAULTS, Config
from fl.flags.conditions import has_speeds
from fl.flags.flag import pair
from fl.rng import derive, seeded, uniforms

HOUR, DAY = 3600.0, 86400.0
NIGHT_BEGINS, NIGHT_ENDS = 22, 6  # hours of local time
STATES = ("charging", "unmetered", "idle")
BITS = 1e6 / 8  # bytes a second of a megabit a second


class Devices(NamedTuple):
    """Properties of all K clients, (K,) float64 each.

    ahead: seconds by which the client's local time is ahead of the server's. The others are its speeds; a speed that no
    flag sets is infinite.
    """

    ahead: Tensor
    examples_per_second: Tensor
    down_bytes_per_second: Tensor
    up_bytes_per_second: Tensor


class Fate(NamedTuple):
    """What happens to a client in a round if it is called.

    vanishes: the fraction of its round time after which it drops out; None if it does not. turn: a random number in
    [0, 1) that decides the order of equally fast clients.
    """

    declines: bool
    vanishes: float | None
    is_slow: bool
    turn: float


def comes_and_goes(config: Config) -> bool:
    """Whether devices are sometimes not eligible."""
    return any(getattr(config, state) != DEFAULTS[state] for state in STATES)


def has_clock(config: Config) -> bool:
    """Whether simulated time passes."""
    return comes_and_goes(config) or has_speeds(config)


@lru_cache(maxsize=4)
def devices_of(config: Config) -> Devices:
    """Time zones are whole hours, all equally likely; speeds are log-normal around the flags' medians."""
    K = config.num_clients
    with seeded(config.seed, "devices"):
        ahead = torch.randint(24, (K,)).double() * HOUR
        factors = torch.exp(config.speed_spread * torch.randn(3, K, dtype=torch.float64))

    def speeds(median: float | None, unit: float, factor: Tensor) -> Tensor:
        return torch.full((K,), math.inf, dtype=torch.float64) if median is None else median * unit * factor

    return Devices(
        ahead,
        speeds(config.examples_per_second, 1, factors[0]),
        speeds(config.download_mbps, BITS, factors[1]),
        speeds(config.upload_mbps, BITS, factors[2]),
    )


def eligible(config: Config, clock: float) -> Tensor:
    """(K,) bool: who can be called at `clock`, in seconds since the run began at midnight of the server's time.

    A device keeps its state for an hour of the clock; the hours are independent.
    """
    night = has_night(config, clock)
    able = torch.ones_like(night)
    for state in STATES:
        by_night, by_day = pair(getattr(config, state))
        drawn = uniforms(config.seed, state, int(clock // HOUR), n=config.num_clients)
        able &= drawn < torch.where(night, by_night, by_day)
    return able


def has_night(config: Config, clock: float) -> Tensor:
    """(K,) bool: where it is night at `clock`."""
    hour = ((clock + devices_of(config).ahead) % DAY) // HOUR
    return (hour >= NIGHT_BEGINS) | (hour < NIGHT_ENDS)


def most_eligible(config: Config) -> float:
    """The expected number of eligible clients at the best hour of the day."""
    by_night, by_day = (math.prod(pair(getattr(config, state))[i] for state in STATES) for i in range(2))
    nights = [int(has_night(config, hour * HOUR).sum()) for hour in range(24)]
    return max(night * by_night + (config.num_clients - night) * by_day for night in nights)


def fate_of(config: Config, t: int, k: int) -> Fate:
    """The fate of client k in round t.

    All five numbers are drawn whatever the flags are, so that changing one rate does not change any other outcome.
    """
    draw = random.Random(derive(config.seed, "fate", t, k)).random
    declines, vanishes, when, slow, turn = (draw() for _ in range(5))
    return Fate(
        declines < config.decline_rate,
        when if vanishes < config.dropout_rate else None,
        slow < config.straggler_rate,
        turn,
    )
