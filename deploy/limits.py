"""Which flags of run_federated.py a real network cannot have, and why. Imports no torch."""

from __future__ import annotations

from fl.config import DEFAULTS, Config
from fl.errors import FlagError

SIMULATED = "simulates what a real network does by itself"
HERE = "says how one machine executes the clients"
REFUSED = {
    **{name: SIMULATED for name in (
        "charging", "unmetered", "idle", "decline_rate", "dropout_rate", "straggler_rate", "over_select",
        "round_deadline", "examples_per_second", "download_mbps", "upload_mbps", "attack",
    )},
    **{name: HERE for name in ("stack_size", "workers")},
    "keep_optimizer_state": "would send the optimizer's state to and fro, which is not built",
    "compress": "is not built for the network: models travel whole",
}  # fmt: skip


def check_deployable(config: Config) -> None:
    """Raise FlagError for what does not go over a network."""
    for name, why in REFUSED.items():
        if (value := getattr(config, name)) != DEFAULTS[name]:
            raise FlagError(f"--{name} {value}: {why}; leave it out")
