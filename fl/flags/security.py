"""The flags of secure aggregation: a part of the table in fl/config.py, which is one with the others.

Off by default. docs/secure_aggregation.md says what it hides, and what it costs.
"""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec

from fl.flags.flag import FEDERATED, SWITCH, Need, flag, number

GROUP = "Privacy"
LEAST = 2  # the sum of one client's updates would be that client's update
INSTALL = "needs a package that is not here: sh requirements.sh secure"


def threshold(config: Security, n: int) -> int:
    """t, of the n clients that share keys: how many of them must send an update, or the sum stays masked."""
    return min(int(config.secure_threshold * n + 1e-9) + 1, n)


def fewest_reports(config: Security, n: int) -> int:
    """The least number of reports that secure aggregation needs if n clients take part in a round; 0 if it is off."""
    return max(threshold(config, n), LEAST) if config.secure_aggregation else 0


@dataclasses.dataclass(frozen=True)
class Security:
    """Whether the server sees single updates."""

    # fmt: off
    secure_aggregation: bool = flag(False, GROUP, SWITCH,
        "clients mask their updates, so that the server learns nothing but their sum", reads=FEDERATED,
        needs=[Need(INSTALL, lambda c: find_spec("cryptography") is not None)])
    secure_threshold: float = flag(2 / 3, GROUP, number(0.5, 1, "[0.5, 1)"),
        "more than this share of a round's clients must report; otherwise nobody can unmask the sum, and the round is abandoned", reads=FEDERATED,
        needs=[Need("needs --secure_aggregation", lambda c: c.secure_aggregation)])
    # fmt: on
