"""What a command line is warned of: flags that do not end it, but do not do what they seem to. Imports no torch."""

from __future__ import annotations

from typing import Any

from fl.config import DEFAULTS, FLAGS, Config
from fl.flags.flag import listed
from fl.flags.privacy import has_noise
from fl.names import entry_of, made_of

LARGE_FOR_ADAM = 0.02  # a learning rate; usual ones for Adam are 1e-4 to 1e-3
SMALL_FOR_SGD = 1 / 500  # times the model's default learning rate for SGD


def advice(config: Config, given: dict[str, Any], script: str) -> list[str]:
    """One line for each thing to know of the flags that were `given`."""
    return [*unread(config, given, script), *unusual_rate(config, given), *large_delta(config), *learnt_scales(config)]


def unread(config: Config, given: dict[str, Any], script: str) -> list[str]:
    """Flags that only the other script reads."""
    others = [name for name in FLAGS if name in given and script not in FLAGS[name].metadata["reads"]]
    read = made_of(config.dataset) if others else ()
    names = [f"--{name}" for name in others if name not in read]
    if not names:
        return []
    other = "baseline" if script == "federated" else "federated"
    does = "does" if len(names) == 1 else "do"
    return [f"{listed(names, 'and')}: {does} nothing in run_{script}.py, only in run_{other}.py"]


def unusual_rate(config: Config, given: dict[str, Any]) -> list[str]:
    """A learning rate that looks as if it was meant for the other optimizer."""
    lr, usual = config.init_lr, entry_of("model", config.model).sgd_lr
    if "init_lr" not in given:
        return []
    if config.optimizer == "adam" and lr >= LARGE_FOR_ADAM:
        return [
            f"--init_lr {lr:g}: is large for adam, which moves every weight by about the rate in each step; "
            f"1e-4 to 1e-3 are usual (for --optimizer sgd {usual:g})"
        ]
    if config.optimizer == "sgd" and lr < usual * SMALL_FOR_SGD:
        return [f"--init_lr {lr:g}: is small for sgd; without the flag it is {usual:g} for --model {config.model}"]
    return []


def large_delta(config: Config) -> list[str]:
    """A delta that would let the data of one client be published."""
    if not has_noise(config) or not config.num_clients or config.delta * config.num_clients < 1:
        return []
    return [
        f"--delta {config.delta:g}: is not less than 1 / K = {1 / config.num_clients:g}, and so would allow "
        "publishing the data of one client drawn at random"
    ]


def learnt_scales(config: Config) -> list[str]:
    """Inputs that are scaled by statistics of all clients' examples, which no noise hides."""
    own = entry_of("dataset", config.dataset).of_the_user
    if not (has_noise(config) and own and config.normalise == DEFAULTS["normalise"]):
        return []
    return [
        f"--dataset {config.dataset}: inputs are scaled by means and standard deviations of all clients' examples, and "
        "epsilon does not count that (docs/privacy.md)"
    ]
