"""The flags of data that change over rounds: a part of the table in fl/config.py, which is one with the others."""

from __future__ import annotations

import dataclasses

from data import DRIFTS
from fl.flags.flag import FEDERATED, choice, flag, integer, number

GROUP = "Model and data"


@dataclasses.dataclass(frozen=True)
class Changing:
    """How much of its data a client has at a time."""

    # fmt: off
    data_drift: str = flag("none", GROUP, choice(DRIFTS),
        "how clients' data change over rounds: more come (grow), or labels take turns (shift)", reads=FEDERATED)
    drift_share: float = flag(0.2, GROUP, number(0, 1, "(0, 1]"),
        "share of its examples that a client has at first (grow) or at any time (shift)", reads=FEDERATED)
    drift_rounds: int = flag(50, GROUP, integer(1, high=10**9),
        "rounds until a client has all (grow), or until each of its labels had its turn (shift)", reads=FEDERATED)
    # fmt: on


def has_drift(config: Changing) -> bool:
    """Whether what clients hold changes over rounds."""
    return config.data_drift != Changing.data_drift
