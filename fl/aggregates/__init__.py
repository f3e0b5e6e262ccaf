"""The rules by which the server combines the clients' models, by name: --aggregate.

The names stand here without their modules, so that reading the flags imports no torch. A new rule is one function
(models (m, P), weights (m,), config) -> model (P,) and one entry here.
"""

from __future__ import annotations

import math

from fl.errors import FlagError
from fl.flags.entry import Entry, Flags

NO_SUM = "is no sum, and the noise is calibrated for a sum"


def something_to_trim(config: Flags) -> None:
    m = config.num_select_clients
    if config.trim > 0 and int(config.trim * m + 1e-9) == 0:
        raise FlagError(
            f"--trim {config.trim:g}: leaves out none of {m} clients a round; "
            f"expected at least {math.ceil(100 / m) / 100:g}, or more clients a round"
        )


def enough_neighbours(config: Flags) -> None:
    """Krum compares each of m clients with its m - f - 2 nearest (Blanchard et al. 2017, section 4)."""
    m, f = config.num_select_clients, config.byzantine
    if m < (needed := enough_for_krum(config)):
        raise FlagError(
            f"--byzantine {f}: {config.aggregate} needs at least 2 f + 3 = {needed} clients a round, "
            f"and --num_select_clients is {m}"
        )


def one_at_either_end(config: Flags) -> int:
    return math.ceil(1 / config.trim - 1e-9) if config.trim else 0


def enough_for_krum(config: Flags) -> int:
    return 2 * int(config.byzantine) + 3


AGGREGATES: dict[str, str | Entry] = {
    "mean": "fl.aggregates.mean:Mean",
    "median": Entry("fl.aggregates.robust:median", leaks=NO_SUM),
    "trimmed_mean": Entry(
        "fl.aggregates.robust:trimmed_mean",
        reads=("trim",),
        check=something_to_trim,
        reports=one_at_either_end,
        instead=lambda config: "mean" if config.trim == 0 else None,
        leaks=NO_SUM,
    ),
    **{
        name: Entry(
            f"fl.aggregates.robust:{name}",
            reads=("byzantine",),
            check=enough_neighbours,
            reports=enough_for_krum,
            leaks=NO_SUM,
        )
        for name in ("krum", "multi_krum")
    },
    "geometric_median": Entry("fl.aggregates.robust:geometric_median", leaks=NO_SUM),
}
