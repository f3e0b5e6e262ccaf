"""What the server makes of the models, by name: --aggregate.

The names stand here without their modules, so that reading the flags imports no torch. A new rule is one function
(models (m, P), weights (m,), config) -> model (P,) and one line here.
"""

AGGREGATES = {
    "mean": "fl.aggregates.mean:Mean",
    "median": "fl.aggregates.robust:median",
    "trimmed_mean": "fl.aggregates.robust:trimmed_mean",
    "krum": "fl.aggregates.robust:krum",
    "multi_krum": "fl.aggregates.robust:multi_krum",
    "geometric_median": "fl.aggregates.robust:geometric_median",
}
