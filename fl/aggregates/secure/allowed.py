"""What secure aggregation cannot be combined with: what needs more than a sum, and what masking would undo.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection

from fl.accountant import clients_called
from fl.config import DEFAULTS, Config
from fl.errors import FlagError
from fl.flags.privacy import is_noisy
from fl.flags.security import LEAST, fewest_reports
from fl.names import entry_of, is_own

UNSURE = ("decline_rate", "dropout_rate", "round_deadline", "over_select")  # with which fewer than m may report
SAID = "--secure_aggregation"


def check_secure(config: Config) -> None:
    """Raise FlagError for what needs single updates, and for rounds that could never be unmasked."""
    if not config.secure_aggregation:
        return
    if config.aggregate != DEFAULTS["aggregate"]:
        raise FlagError(
            f"--aggregate {config.aggregate}: is no sum and looks at single updates, which {SAID} hides from the "
            "server; leave one of the two out"
        )
    own, reason = is_own("algorithm", config.algorithm), entry_of("algorithm", config.algorithm).leaks
    if own or reason:
        raise FlagError(
            f"--algorithm {config.algorithm}: {reason or 'may use more than the mean'}, but {SAID} gives the server "
            "no more than a sum; choose fedavg, fedsgd, fedprox, fedavgm, fedadagrad, fedadam or fedyogi, or leave "
            f"{SAID} out"
        )
    if config.compress != DEFAULTS["compress"]:
        raise FlagError(
            f"--compress {config.compress}: makes updates small, but a masked update has all its values, each of 8 "
            f"bytes, whatever they were; leave out one of --compress and {SAID}"
        )
    if config.personal_layers:
        raise FlagError(
            f"--personal_layers {config.personal_layers}: are not sent, but {SAID} masks and sends all layers; leave "
            "one of the two out"
        )
    check_enough(config)
    if is_noisy(config):
        check_everyone_reports(config)


def check_enough(config: Config) -> None:
    """Raise FlagError if m, the reports that a round waits for, is below 2 or below the threshold for all called."""
    K, m = config.num_clients, config.num_select_clients
    if not K:
        return
    if m < LEAST:
        raise FlagError(f"--num_select_clients {m}: the sum of one update is that update; expected at least {LEAST}")
    n = clients_called(config)
    if (needed := fewest_reports(config, n)) > m:
        raise FlagError(
            f"--over_select {config.over_select:g}: calls {n} clients, of whom {needed} must report, and a round "
            f"is over with {m} reports; call fewer, or lower --secure_threshold {config.secure_threshold:.3g}"
        )


def check_everyone_reports(config: Config) -> None:
    """Where the server adds noise, no round may be abandoned: that would tell without noise that some were missing."""
    reason = (
        f"may leave fewer reports than {SAID} needs, and a round that is abandoned for that tells without noise that "
        "somebody was missing; leave it out, or the server's noise"
    )
    if config.sampling != "uniform":
        raise FlagError(f"--sampling {config.sampling}: {reason}")
    for name in UNSURE:
        if (value := getattr(config, name)) != DEFAULTS[name]:
            raise FlagError(f"--{name} {value:g}: {reason}")


def check_no_buffers(config: Config, buffers: Collection[str]) -> None:
    """Raise FlagError for a model with buffers, such as BatchNorm's counter, of which the maximum is taken."""
    if config.secure_aggregation and buffers:
        raise FlagError(
            f"--model {config.model}: has buffers ({', '.join(sorted(buffers)[:2])}), which {SAID} cannot add up; "
            "choose a model without, such as gn_cnn"
        )
