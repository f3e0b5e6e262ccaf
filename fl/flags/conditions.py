"""The flags of devices and links, which are a part of the table of flags in fl/config.py.

All of them are off by default, and then no devices are simulated.
"""

from __future__ import annotations

import dataclasses

from fl.flags.flag import FEDERATED, NIGHT_AND_DAY, Need, flag, integer, number

GROUP = "Devices and links"
POSITIVE = number(0, 1e15, "(0, 1e+15]")
MEDIAN = "of the median client"


def has_speeds(config: Conditions) -> bool:
    """Whether work or transfers take simulated time."""
    return not (config.examples_per_second is config.download_mbps is config.upload_mbps is None)


TIMED = Need(
    "needs --examples_per_second, --download_mbps or --upload_mbps; without them nothing takes time", has_speeds
)
STRAGGLERS = Need("needs a --straggler_rate", lambda c: c.straggler_rate > 0)


@dataclasses.dataclass(frozen=True)
class Conditions:
    """When clients can be called, what becomes of those that are, and how long everything takes."""

    # fmt: off
    proxy_fraction: float = flag(0.0, "Federation", number(0, 1, "[0, 1)"),
        "share of the training examples that the server keeps for itself, to train the first model on", reads=FEDERATED)
    proxy_epochs: int = flag(1, "Federation", integer(1), "passes over the server's own examples before the first round", reads=FEDERATED,
        needs=[Need("needs a --proxy_fraction", lambda c: c.proxy_fraction > 0)])
    charging: str = flag("1,1", GROUP, NIGHT_AND_DAY, "probability that a device is charging, by night and by day", reads=FEDERATED)
    unmetered: str = flag("1,1", GROUP, NIGHT_AND_DAY, "probability that a device's network is free of charge, by night and by day", reads=FEDERATED)
    idle: str = flag("1,1", GROUP, NIGHT_AND_DAY, "probability that nobody uses a device, by night and by day", reads=FEDERATED)
    decline_rate: float = flag(0.0, GROUP, number(0, 1, "[0, 1)"), "probability that a selected client does not take part", reads=FEDERATED)
    dropout_rate: float = flag(0.0, GROUP, number(0, 1, "[0, 1)"), "probability that a client drops out while it trains", reads=FEDERATED)
    straggler_rate: float = flag(0.0, GROUP, number(0, 1, "[0, 1]"), "probability that a client is slow in a round", reads=FEDERATED)
    straggler_slowdown: float = flag(5.0, GROUP, number(1, 1e6, "[1, 1e+06]"), "factor on the training time of a slow client", reads=FEDERATED,
        needs=[STRAGGLERS, TIMED])
    straggler_epochs: int = flag(0, GROUP, integer(0, " (0: all E)"), "epochs after which a slow client sends what it has; 0 is all E", reads=FEDERATED,
        needs=[STRAGGLERS, Need("expected at most --local_epoch, which is {config.local_epoch}", lambda c: c.straggler_epochs <= c.local_epoch)])
    over_select: float = flag(1.0, GROUP, number(1, 1e6, "[1, 1e+06]"), "factor on m: ceil(factor m) clients are selected, because some will not report", reads=FEDERATED)
    min_reports: int = flag(1, GROUP, integer(1), "least number of reports; a round with fewer is abandoned", reads=FEDERATED,
        needs=[Need("expected at most --num_select_clients, which is {config.num_select_clients}; a round is over with so many",
            lambda c: c.min_reports <= c.num_select_clients or not c.num_clients)])
    round_deadline: float | None = flag(None, GROUP, POSITIVE, "simulated seconds after which a round is over", reads=FEDERATED, needs=[TIMED])
    examples_per_second: float | None = flag(None, GROUP, POSITIVE, f"training speed {MEDIAN}", reads=FEDERATED)
    download_mbps: float | None = flag(None, GROUP, POSITIVE, f"download speed {MEDIAN}, in megabits a second", reads=FEDERATED)
    upload_mbps: float | None = flag(None, GROUP, POSITIVE, f"upload speed {MEDIAN}, in megabits a second", reads=FEDERATED)
    speed_spread: float = flag(0.5, GROUP, number(0, 5, "[0, 5]"),
        "standard deviation over clients of the logarithm of a speed", reads=FEDERATED, needs=[TIMED])
    # fmt: on
