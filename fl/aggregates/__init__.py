"""What the server makes of the models, by name: --aggregate.

The names stand here without their modules, so that reading the flags imports no torch. A new rule is one function
(models (m, P), weights (m,), config) -> model (P,) and one entry here.
"""

from __future__ import annotations

import math

from fl.entry import Entry, Flags
from fl.errors import FlagError

# Flags with which fewer than m clients may report.
THINNING = ("sampling", "charging", "unmetered", "idle", "decline_rate", "dropout_rate", "round_deadline")
NO_SUM = "is no sum, and the noise is calibrated for a sum"


def something_to_trim(config: Flags) -> None:
    m = config.num_select_clients
    if config.trim == 0:
        return
    if int(config.trim * m + 1e-9) == 0:
        raise FlagError(
            f"--trim {config.trim:g}: leaves out none of {m} clients a round; "
            f"expected at least {math.ceil(100 / m) / 100:g}, or more clients a round"
        )
    check_reports(config, math.ceil(1 / config.trim - 1e-9), "to leave any out")


def enough_neighbours(config: Flags) -> None:
    """Krum compares each of m clients with its m - f - 2 nearest (Blanchard et al. 2017, section 4).

    m is the number of those that report.
    """
    m, f = config.num_select_clients, config.byzantine
    if m < 2 * f + 3:
        raise FlagError(
            f"--byzantine {f}: {config.aggregate} needs at least 2 f + 3 = {2 * f + 3} clients a round, "
            f"and --num_select_clients is {m}"
        )
    check_reports(config, 2 * f + 3, f"for --byzantine {f}")


def check_reports(config: Flags, needed: int, what_for: str) -> None:
    """Raise FlagError if rounds may count to which fewer than `needed` clients report."""
    for name in THINNING:
        value = getattr(config, name)
        if value != getattr(type(config), name) and config.min_reports < needed:
            raise FlagError(
                f"--{name} {value}: with it fewer than --num_select_clients may report, and {config.aggregate} needs "
                f"{needed} {what_for}; give --min_reports {needed}, so that rounds with fewer are abandoned"
            )


AGGREGATES: dict[str, str | Entry] = {
    "mean": "fl.aggregates.mean:Mean",
    "median": Entry("fl.aggregates.robust:median", leaks=NO_SUM),
    "trimmed_mean": Entry(
        "fl.aggregates.robust:trimmed_mean",
        reads=("trim",),
        check=something_to_trim,
        instead=lambda config: "mean" if config.trim == 0 else None,
        leaks=NO_SUM,
    ),
    "krum": Entry("fl.aggregates.robust:krum", reads=("byzantine",), check=enough_neighbours, leaks=NO_SUM),
    "multi_krum": Entry("fl.aggregates.robust:multi_krum", reads=("byzantine",), check=enough_neighbours, leaks=NO_SUM),
    "geometric_median": Entry("fl.aggregates.robust:geometric_median", leaks=NO_SUM),
}
