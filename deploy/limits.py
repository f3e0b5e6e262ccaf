"""Which flags of run_federated.py a real network cannot have, and why. Imports no torch."""

from __future__ import annotations

from fl.config import DEFAULTS, Config
from fl.errors import FlagError
from fl.names import entry_of

SIMULATED = "simulates what a real network does by itself"
HERE = "says how one machine executes the clients"
NOT_BUILT = "is not built for a network, where models travel whole and clients keep nothing between rounds"
REFUSED = {
    **{name: SIMULATED for name in (
        "charging", "unmetered", "idle", "decline_rate", "dropout_rate", "straggler_rate", "over_select",
        "round_deadline", "examples_per_second", "download_mbps", "upload_mbps", "data_drift", "attack",
    )},
    "dry_run": "says what one machine would do",
    **{name: HERE for name in ("stack_size", "workers")},
    **{name: NOT_BUILT for name in (
        "keep_optimizer_state", "compress", "secure_aggregation", "client_test_fraction", "personal_layers",
    )},
}  # fmt: skip


def check_deployable(config: Config) -> None:
    """Raise FlagError for what does not go over a network."""
    for name, why in REFUSED.items():
        if (value := getattr(config, name)) != DEFAULTS[name]:
            raise FlagError(f"--{name} {value}: {why}; leave it out")
    reports = entry_of("aggregate", config.aggregate).reports
    if reports and config.min_reports < (needed := reports(config)):
        raise FlagError(
            f"--aggregate {config.aggregate}: needs {needed} answers to withstand anything, and on a network some may "
            f"be lost; give --min_reports {needed}, so that rounds with fewer are abandoned"
        )
