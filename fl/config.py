"""The one place for flags: names, defaults, help, and what each asks of others. Imports no torch, so `--help` is instant.

fl/command_line.py turns words into a Config, fl/check.py looks at all flags together, and fl/flags/flag.py explains the
columns of the table. What an algorithm, a rule or a partition asks of flags stands in its own entry: fl/flags/entry.py.
"""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from typing import Any

from fl.aggregates import AGGREGATES
from fl.algorithms import ALGORITHMS
from fl.errors import FlagError
from fl.flags.changing import Changing
from fl.flags.compression import Compression
from fl.flags.conditions import Conditions
from fl.flags.flag import (
    ANEW,
    BASELINE,
    DEVICE,
    FEDERATED,
    FLOOR,
    FREE,
    MOST,
    PATH,
    SAME,
    SWITCH,
    WORD,
    Kind,
    Need,
    ascending,
    choice,
    flag,
    integer,
    named,
    number,
    only_with,
)
from fl.flags.personal import Personal
from fl.flags.privacy import Privacy
from fl.flags.security import Security
from fl.flags.workload import Workload
from fl.transforms import ATTACKS, TRANSFORMS


@dataclasses.dataclass(frozen=True)
class Config(Workload, Changing, Conditions, Privacy, Security, Compression, Personal):
    """Every flag, resolved: what `config.json` holds. Built by `parse`, or directly in tests."""

    # fmt: off
    num_clients: int = flag(8, "Federation", integer(1), "K, the number of clients; with --partition natural, as many as the data set has", reads=FEDERATED)
    num_select_clients: int = flag(4, "Federation", integer(1),
        "m, clients drawn each round without replacement (at most K)", reads=FEDERATED,
        needs=[Need("expected at most --num_clients, which is {config.num_clients}", lambda c: c.num_select_clients <= c.num_clients or not c.num_clients)])
    client_fraction: float | None = flag(None, "Federation", number(0, 1, "(0, 1]"),
        "C, the other way to say m: m = max(round(C K), 1)", reads=FEDERATED, experiment=False)
    global_epoch: int = flag(5, "Federation", integer(0), "T, rounds", reads=FEDERATED, resume=FREE)
    local_epoch: int = flag(5, "Federation", integer(1, high=10**9), "E, passes over a client's data in a round", reads=FEDERATED)
    keep_optimizer_state: bool = flag(False, "Federation", SWITCH,
        "keep each client's optimizer state between its rounds (default: fresh every round)", reads=FEDERATED,
        needs=[only_with("engine", "sequential", "distributed", "auto")])

    algorithm: str = flag("fedavg", "Algorithm", named(ALGORITHMS), "federated algorithm", reads=FEDERATED)
    proximal_mu: float = flag(0.01, "Algorithm", number(0, MOST, f"[0, {MOST:g}]"),
        "mu, weight of the proximal term", reads=FEDERATED, rate=True)
    server_lr: float | None = flag(None, "Algorithm", number(0, MOST, f"(0, {MOST:g}]"), "eta of the server", reads=FEDERATED, rate=True)
    server_momentum: float = flag(0.9, "Algorithm", number(0, 1, "[0, 1)"), "beta_1 of the server", reads=FEDERATED)
    server_beta2: float = flag(0.99, "Algorithm", number(0, 1, "[0, 1)"), "beta_2 of the server", reads=FEDERATED)
    server_tau: float = flag(1e-3, "Algorithm", number(0, MOST, f"(0, {MOST:g}]"), "tau, adaptivity of the server", reads=FEDERATED)
    aggregate: str = flag("mean", "Algorithm", named(AGGREGATES), "rule by which the server combines the clients' models", reads=FEDERATED)
    trim: float = flag(0.2, "Algorithm", number(0, 0.5, "[0, 0.5)"), "share of the values that is left out at each end", reads=FEDERATED)
    byzantine: int = flag(1, "Algorithm", integer(0), "f, bad clients to withstand", reads=FEDERATED)
    transform: tuple[str, ...] = flag((), "Algorithm", named(TRANSFORMS),
        "what is done to updates on their way to the server; repeatable, in the order given", many=tuple, reads=FEDERATED)
    attack: str | None = flag(None, "Algorithm", choice(ATTACKS), "the attack that some clients carry out", reads=FEDERATED)
    attackers: float = flag(0.2, "Algorithm", number(0, 1, "[0, 1]"),
        "share of the K clients that attack", reads=FEDERATED,
        needs=[Need("needs an --attack", lambda c: c.attack is not None)])
    attack_scale: float = flag(10.0, "Algorithm", number(0, MOST, f"(0, {MOST:g}]"),
        "lambda, the factor on an attacker's update, or the standard deviation of its noise", reads=FEDERATED)

    engine: str = flag("auto", "Execution", choice(["auto", "sequential", "stacked", "distributed"]),
        "how a round's clients are executed", reads=FEDERATED)
    stack_size: int = flag(0, "Execution", integer(0),
        "most clients that --engine stacked trains at once; 0 chooses a number that is fast and fits into memory", reads=FEDERATED,
        needs=[only_with("engine", "stacked", "distributed", "auto")])
    workers: int = flag(0, "Execution", integer(0, high=10**4),
        "processes of --engine distributed; 0 is one per core, or one per GPU", reads=FEDERATED, resume=FREE, experiment=False,
        needs=[
            only_with("engine", "distributed", "auto"),
            Need("expected at most --num_select_clients, which is {config.num_select_clients}; further processes would have no client", lambda c: c.workers <= c.num_select_clients or not c.num_clients),
        ])
    timeout: float = flag(1800.0, "Execution", number(1, 1e6, "[1, 1e+06]"),
        "seconds after which a worker that does not answer ends the run", reads=FEDERATED, resume=FREE, experiment=False)
    precision: str = flag("fp32", "Execution", choice(["fp32", "bf16", "tf32"]),
        "arithmetic: strict fp32, bf16 autocast, or tf32 on CUDA", matched=True)

    batch_size: int = flag(100, "Training", integer(0, " (0: the client's whole data set)"),
        "B, examples in a minibatch; 0 is the client's whole data set", matched=True)
    init_lr: float = flag(5e-5, "Training", number(0, MOST, f"(0, {MOST:g}]"),
        "eta, learning rate of the first round; with --optimizer sgd the default is 0.1, or what suits the --model", matched=True, rate=True)
    lr_decay: float = flag(1.0, "Training", number(0, 1, "(0, 1]"), "factor on the learning rate after every round", matched=True)
    optimizer: str = flag("adam", "Training", choice(["adam", "sgd"]), "local optimizer", matched=True)
    momentum: float = flag(0.0, "Training", number(0, 1, "[0, 1)"),
        "momentum of --optimizer sgd", matched=True,
        needs=[Need("needs --optimizer sgd", lambda c: c.optimizer == "sgd" or c.momentum == 0)])
    weight_decay: float = flag(0.0, "Training", number(0, MOST, f"[0, {MOST:g}]"), "L2 penalty, added to the gradient", matched=True)

    epoch: int = flag(15, "Baseline only", integer(0),
        "epochs of run_baseline.py", reads=BASELINE, resume=FREE,
        needs=[Need("needs no --match, which already says how long to train", lambda c: c.match is None)])
    match: str | None = flag(None, "Baseline only", PATH,
        "run folder of a federated run, or `latest`: train for as many examples, evaluate as often, take its other flags as defaults",
        reads=BASELINE, experiment=False)

    eval_every: int = flag(1, "Evaluation", integer(1),
        "rounds between evaluations on the test set (the last is always evaluated)", matched=True)
    target_accuracy: tuple[float, ...] = flag((), "Evaluation", number(0, 1, "(0, 1]"),
        "report the rounds until this test accuracy; repeatable", many=ascending, matched=True, resume=FREE, experiment="stop_at_target")
    stop_at_target: bool = flag(False, "Evaluation", SWITCH,
        "end the run once every --target_accuracy is reached", resume=FREE,
        needs=[Need("needs a --target_accuracy", lambda c: bool(c.target_accuracy))])
    stop_below: str | None = flag(None, "Evaluation", FLOOR,
        "X@N: end the run at round N or later if its best test accuracy so far is below X", resume=FREE)

    seed: int = flag(0, "Run", integer(0), "every random choice follows from it, except privacy noise and the masks of secure aggregation", matched=True, experiment=False)
    device: str = flag("auto", "Run", DEVICE, "auto, cpu, cuda[:i] or mps; auto is CUDA, or else the CPU", resume=FREE, experiment=False)
    name: str | None = flag(None, "Run", WORD,
        "a word for the run folder's name", experiment=False,
        needs=[Need("says nothing beside --run_dir, which names the folder", lambda c: c.run_dir is None)])
    out_dir: str = flag("runs", "Run", PATH,
        "where run folders are made", experiment=False,
        needs=[Need("says nothing beside --run_dir, which names the folder", lambda c: c.run_dir is None)])
    run_dir: str | None = flag(None, "Run", PATH, "this very run folder, instead of a new one in --out_dir", resume=FREE, experiment=False)
    resume: bool = flag(False, "Run", SWITCH,
        "continue the run in --run_dir with its own flags, or start it if there is none", resume=ANEW, experiment=False,
        needs=[Need("needs --run_dir, the folder of the run to continue", lambda c: c.run_dir is not None)])
    overwrite: bool = flag(False, "Run", SWITCH,
        "replace the run in --run_dir", resume=ANEW, experiment=False,
        needs=[
            Need("needs --run_dir", lambda c: c.run_dir is not None),
            Need("cannot be combined with --resume; choose one", lambda c: not c.resume),
        ])
    checkpoint_every: int = flag(1, "Run", integer(1), "rounds between checkpoints", resume=FREE, experiment=False)
    tensorboard: bool = flag(False, "Run", SWITCH, "write the records for TensorBoard, too, into the run folder", resume=FREE, experiment=False,
        needs=[Need("needs a package that is not here: sh requirements.sh tensorboard", lambda c: find_spec("tensorboard") is not None)])
    dry_run: bool = flag(False, "Run", SWITCH, "print the plan, train nothing, write no run folder", resume=ANEW, experiment=False)
    quiet: bool = flag(False, "Run", SWITCH, "print the last two lines only", resume=ANEW, experiment=False)
    # fmt: on

    def lr(self, t: int) -> float:
        """eta of round t, counted from 1."""
        return self.init_lr * self.lr_decay ** (t - 1)


GROUPS = (
    "Federation", "Algorithm", "Privacy", "Compression", "Personalisation", "Devices and links", "Execution", "Training",
    "Baseline only", "Model and data", "Evaluation", "Run",
)  # fmt: skip
FLAGS = {
    field.name: field
    for field in sorted(dataclasses.fields(Config), key=lambda field: GROUPS.index(field.metadata["group"]))
}
DEFAULTS: dict[str, Any] = {name: field.default for name, field in FLAGS.items()}
RESUMABLE = {name for name, field in FLAGS.items() if field.metadata["resume"] != SAME}
MATCHED = [name for name, field in FLAGS.items() if field.metadata["matched"]]
NAMES = [name for name, field in FLAGS.items() if field.metadata["kind"].table is not None]  # such as --model


def check_value(name: str, text: object) -> Any:
    """The value of a flag's text, or of a list of texts. Raises FlagError, or DataError for a data set's file."""
    kind: Kind = FLAGS[name].metadata["kind"]
    if isinstance(text, list):
        return FLAGS[name].metadata["many"]([check_value(name, one) for one in text])
    try:
        return kind.parse(str(text))
    except FileNotFoundError as error:
        raise kind.fault(
            f"--{name} {text}: there is no file {error} (seen from the working directory); expected {kind.accepts}"
        ) from None
    except ValueError:
        raise FlagError(f"--{name} {text}: expected {kind.accepts}") from None


def names_in(value: Any) -> tuple[str, ...]:
    """The names in the value of a flag that takes names: none, one, or those of a repeatable flag."""
    return () if value is None else value if isinstance(value, tuple) else (value,)


def identity(config: Config, script: str) -> dict[str, Any]:
    """The flags that a resumed run cannot change. A checkpoint stores them, and only a run with equal ones can use it.

    Each value is a string, a number or None, because a checkpoint accepts no other types for flags.
    """
    flags = {name: getattr(config, name) for name in FLAGS if name not in RESUMABLE}
    plain = {name: " ".join(value) if isinstance(value, tuple) else value for name, value in flags.items()}
    return plain | {"script": script, "name": None, "out_dir": None}
