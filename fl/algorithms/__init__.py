"""Federated algorithms by name: --algorithm.

The names stand here without their modules, so that reading the flags imports no torch.
A new algorithm is one file and one entry here. fl/algorithms/algorithm.py says what it consists of, and
fl/flags/entry.py what an entry can ask of other flags.
"""

from __future__ import annotations

from fl.errors import FlagError
from fl.flags.entry import Entry, Flags


def no_kept_velocity(config: Flags) -> None:
    """FedNova's a_k are those of a velocity that starts every round at zero."""
    if config.keep_optimizer_state and config.momentum != 0:
        raise FlagError("--keep_optimizer_state: needs --momentum 0 with fednova")


ALGORITHMS: dict[str, str | Entry] = {
    "fedavg": "fl.algorithms.fedavg:fedavg",
    "fedsgd": Entry(
        "fl.algorithms.fedavg:fedavg",
        needs={"optimizer": "sgd"},
        fixes={"local_epoch": 1, "batch_size": 0},
        meaning="E = 1 and B = 0",
    ),
    "fedprox": Entry("fl.algorithms.fedprox:fedprox", reads=("proximal_mu",)),
    "fedavgm": Entry(
        "fl.algorithms.fedopt:fedavgm",
        reads=("server_lr", "server_momentum"),
        defaults={"server_lr": 1.0},
    ),
    "fedadagrad": Entry(
        "fl.algorithms.fedopt:fedadagrad",
        reads=("server_lr", "server_momentum", "server_tau"),
        defaults={"server_lr": 0.03, "server_momentum": 0.0},  # no momentum in its paper
    ),
    "fedadam": Entry(
        "fl.algorithms.fedopt:fedadam",
        reads=("server_lr", "server_momentum", "server_beta2", "server_tau"),
        defaults={"server_lr": 0.01},
    ),
    "fedyogi": Entry(
        "fl.algorithms.fedopt:fedyogi",
        reads=("server_lr", "server_momentum", "server_beta2", "server_tau"),
        defaults={"server_lr": 0.01},
    ),
    # The next three compute with the number and the rate of plain SGD steps, so they need SGD. They average more than
    # the models, or rescale the mean, so they need --aggregate mean.
    "scaffold": Entry(
        "fl.algorithms.scaffold:scaffold",
        # A client's control variate is computed from its change as it arrives, divided by steps and learning rate. So
        # it would contain the compression error, divided by them as well.
        needs={"optimizer": "sgd", "momentum": 0, "aggregate": "mean", "compress": "none"},
        leaks="makes its control variates out of each client's own update",
    ),
    "fednova": Entry(
        "fl.algorithms.fednova:fednova",
        needs={"optimizer": "sgd", "aggregate": "mean"},
        check=no_kept_velocity,
        leaks="weighs each update by the client's examples and steps",
    ),
    "fsvrg": Entry(
        "fl.algorithms.fsvrg:fsvrg",
        # Its full gradient is that of one model, so no client can have layers of its own.
        needs={"optimizer": "sgd", "momentum": 0, "weight_decay": 0, "aggregate": "mean", "personal_layers": 0},
        needs_stacking=True,
        own_rate=True,  # its steps are h / n_k
        leaks="has clients send their gradients as well",
    ),
}
