"""The one place for flags: names, defaults, help and checks. Imports no torch, so `--help` is instant.

fl/command_line.py turns words into a Config.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple, TypeVar

from data import DATASETS, PARTITIONS
from fl.algorithms import ALGORITHMS
from fl.errors import FlagError, RunFolderError, reason
from fl.models import MODELS
from fl.strict_json import loads, read_regular

T = TypeVar("T")


class Kind(NamedTuple):
    """How a flag's text becomes a value: `parse` raises ValueError for what `accepts` does not describe."""

    parse: Callable[[str], Any]
    accepts: str


def integer(low: int, note: str = "", high: int = 2**63 - 1) -> Kind:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return Kind(parse, f"an integer >= {low}{note}" if high == 2**63 - 1 else f"an integer from {low} to {high:,}")


def number(low: float, high: float, interval: str) -> Kind:
    """A finite float in `interval`, whose brackets say which ends belong to it."""

    def parse(text: str) -> float:
        value = float(text)
        above = value > low or (value == low and interval[0] == "[")
        below = value < high or (value == high and interval[-1] == "]")
        if not (math.isfinite(value) and above and below):
            raise ValueError
        return value

    return Kind(parse, f"a number in {interval}")


def choice(names: Sequence[str]) -> Kind:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError
        return text

    return Kind(parse, "one of " + ", ".join(names))


def _device(text: str) -> str:
    kind, _, index = text.partition(":")
    if text in ("auto", "cpu", "mps") or (kind == "cuda" and (text == "cuda" or index.isdecimal())):
        return text
    raise ValueError


def _text(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError
    return text


def _name(text: str) -> str:
    if not text or not text.isascii() or not all(c.isalnum() or c in "._-" for c in text) or len(text) > 100:
        raise ValueError
    return text


AGGREGATES = ["mean", "median", "trimmed_mean", "krum", "multi_krum", "geometric_median"]
MOST = 3.4e38  # above it a rate or a scale has no float32
SWITCH = Kind(lambda text: True, "no value")
PATH = Kind(_text, "a path")


def flag(default: T, group: str, kind: Kind, help: str, many: bool = False) -> T:
    """A dataclass field that is also a command-line flag."""
    metadata = {"group": group, "kind": kind, "help": help, "many": many}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
    """Every flag, resolved: what `config.json` holds. Built by `parse`, or directly in tests."""

    # fmt: off
    num_clients: int = flag(8, "Federation", integer(1), "K, the number of clients")
    num_select_clients: int = flag(4, "Federation", integer(1), "m, clients drawn each round without replacement (at most K)")
    client_fraction: float | None = flag(None, "Federation", number(0, 1, "(0, 1]"), "C, the other way to say m: m = max(round(C K), 1)")
    global_epoch: int = flag(5, "Federation", integer(0), "T, rounds")
    local_epoch: int = flag(5, "Federation", integer(1, high=10**9), "E, passes over a client's data in a round")
    keep_optimizer_state: bool = flag(False, "Federation", SWITCH, "keep each client's optimizer state between its rounds (default: fresh every round)")

    algorithm: str = flag("fedavg", "Algorithm", choice(list(ALGORITHMS)), "federated algorithm")
    proximal_mu: float = flag(0.01, "Algorithm", number(0, MOST, f"[0, {MOST:g}]"), "mu, weight of the proximal term of fedprox")
    server_lr: float | None = flag(None, "Algorithm", number(0, MOST, f"(0, {MOST:g}]"), "eta of the server (default: 1 for fedavgm, 0.03 for fedadagrad, 0.01 for fedadam and fedyogi)")
    server_momentum: float = flag(0.9, "Algorithm", number(0, 1, "[0, 1)"), "beta_1 of the server: fedavgm, fedadam, fedyogi; and fedadagrad, where it is 0 unless given")
    server_beta2: float = flag(0.99, "Algorithm", number(0, 1, "[0, 1)"), "beta_2 of the server: fedadam, fedyogi")
    server_tau: float = flag(1e-3, "Algorithm", number(0, MOST, f"(0, {MOST:g}]"), "tau, adaptivity of the server: fedadagrad, fedadam, fedyogi")
    aggregate: str = flag("mean", "Algorithm", choice(AGGREGATES), "what the server makes of the models")
    trim: float = flag(0.2, "Algorithm", number(0, 0.5, "[0, 0.5)"), "share of values that trimmed_mean leaves out at either end")
    byzantine: int = flag(1, "Algorithm", integer(0), "f, bad clients that krum and multi_krum withstand")
    attack: str | None = flag(None, "Algorithm", choice(["label_flip", "sign_flip", "gaussian", "scaled"]), "what some clients do to harm")
    attackers: float = flag(0.2, "Algorithm", number(0, 1, "[0, 1]"), "share of the K clients that attack")
    attack_scale: float = flag(10.0, "Algorithm", number(0, MOST, f"(0, {MOST:g}]"), "lambda: factor of sign_flip and scaled, deviation of gaussian")

    engine: str = flag("auto", "Execution", choice(["auto", "sequential", "stacked", "distributed"]), "how a round's clients are executed")
    stack_size: int = flag(0, "Execution", integer(0), "most clients at once of --engine stacked; 0 is as many as are fast and fit")
    workers: int = flag(0, "Execution", integer(0, high=10**4), "processes of --engine distributed; 0 is one a core, or one a GPU")
    timeout: float = flag(1800.0, "Execution", number(1, 1e6, "[1, 1e+06]"), "seconds after which a worker that does not answer ends the run")
    precision: str = flag("fp32", "Execution", choice(["fp32", "bf16", "tf32"]), "arithmetic: strict fp32, bf16 autocast, or tf32 on CUDA")

    batch_size: int = flag(100, "Training", integer(0, " (0: the client's whole data set)"), "B, examples in a minibatch; 0 is the client's whole data set")
    init_lr: float = flag(5e-5, "Training", number(0, MOST, f"(0, {MOST:g}]"), "eta, learning rate of the first round")
    lr_decay: float = flag(1.0, "Training", number(0, 1, "(0, 1]"), "factor on the learning rate after every round")
    optimizer: str = flag("adam", "Training", choice(["adam", "sgd"]), "local optimizer")
    momentum: float = flag(0.0, "Training", number(0, 1, "[0, 1)"), "momentum of --optimizer sgd")
    weight_decay: float = flag(0.0, "Training", number(0, MOST, f"[0, {MOST:g}]"), "L2 penalty, added to the gradient")

    epoch: int = flag(15, "Baseline only", integer(0), "epochs of run_baseline.py")
    match: str | None = flag(None, "Baseline only", PATH, "run folder of a federated run: train for as many examples, evaluate as often, take its other flags as defaults")

    model: str = flag("gn_cnn", "Model and data", choice(list(MODELS)), "network")
    dataset: str = flag("mnist", "Model and data", choice(list(DATASETS)), "data set")
    data_dir: str = flag("data/", "Model and data", PATH, "where data sets are looked for and downloaded to")
    partition: str = flag("iid", "Model and data", choice(list(PARTITIONS)), "how the training set is split over clients")
    shards_per_client: int = flag(2, "Model and data", integer(1), "label-sorted shards a client of --partition shards")
    alpha: float = flag(0.5, "Model and data", number(1e-6, 1e6, "[1e-06, 1e+06]"), "concentration of --partition dirichlet and quantity; smaller is more skewed")

    eval_every: int = flag(1, "Evaluation", integer(1), "rounds between evaluations on the test set (the last is always evaluated)")
    target_accuracy: tuple[float, ...] = flag((), "Evaluation", number(0, 1, "(0, 1]"), "report the rounds until this test accuracy; repeatable", many=True)
    stop_at_target: bool = flag(False, "Evaluation", SWITCH, "end the run once every --target_accuracy is reached")

    seed: int = flag(0, "Run", integer(0), "every random choice follows from it")
    device: str = flag("auto", "Run", Kind(_device, "auto, cpu, cuda, cuda:INDEX or mps"), "auto, cpu, cuda[:i] or mps")
    name: str | None = flag(None, "Run", Kind(_name, "letters, digits, '.', '_' and '-', at most 100"), "a word for the run folder's name")
    out_dir: str = flag("runs", "Run", PATH, "where run folders are made")
    run_dir: str | None = flag(None, "Run", PATH, "this very run folder, instead of a new one in --out_dir")
    resume: bool = flag(False, "Run", SWITCH, "continue the run in --run_dir with its own flags, or start it if there is none")
    overwrite: bool = flag(False, "Run", SWITCH, "replace the run in --run_dir")
    checkpoint_every: int = flag(1, "Run", integer(1), "rounds between checkpoints")
    dry_run: bool = flag(False, "Run", SWITCH, "print the plan, train nothing, write no run folder")
    quiet: bool = flag(False, "Run", SWITCH, "print the last two lines only")
    # fmt: on

    def lr(self, t: int) -> float:
        """eta of round t, counted from 1."""
        return self.init_lr * self.lr_decay ** (t - 1)


NEED_SGD = ("fedsgd", "scaffold", "fednova", "fsvrg")  # they make something of the number and the size of the steps
SERVER_OPTIMIZERS = {"fedavgm": 1.0, "fedadagrad": 0.03, "fedadam": 0.01, "fedyogi": 0.01}  # and their usual rates
NEED_MEAN = ("scaffold", "fednova", "fsvrg")  # they average more than models, or scale the mean

FLAGS = {field.name: field for field in dataclasses.fields(Config)}
# A resumed run may change these: none of them changes a round that is already done.
RESUMABLE = {
    "global_epoch", "epoch", "target_accuracy", "stop_at_target", "device", "data_dir",
    "workers", "timeout", "run_dir", "resume", "overwrite", "checkpoint_every", "dry_run", "quiet",
}  # fmt: skip
# A baseline that matches a federated run takes these from it.
MATCHED = (
    "batch_size", "init_lr", "lr_decay", "optimizer", "momentum", "weight_decay",
    "precision", "model", "dataset", "data_dir", "eval_every", "target_accuracy", "seed",
)  # fmt: skip


def check_value(name: str, text: object) -> Any:
    """The value of a flag's text, or of a list of texts. Raises FlagError."""
    kind: Kind = FLAGS[name].metadata["kind"]
    if isinstance(text, list):
        return tuple(sorted({check_value(name, one) for one in text}))
    try:
        return kind.parse(str(text))
    except ValueError:
        raise FlagError(f"--{name} {text}: expected {kind.accepts}") from None


def read_config(folder: str | Path) -> dict[str, Any]:
    """The recorded flags of a run folder, checked like typed ones, and its script under the key "script".

    Raises RunFolderError when there are none or they are not ours.
    """
    path = Path(folder) / "config.json"
    try:
        recorded = loads(read_regular(path))
        if not isinstance(recorded, dict) or recorded.get("script") not in ("federated", "baseline"):
            raise ValueError("not a run's flags")
        unknown = sorted(set(recorded) - set(FLAGS) - {"script"})
        if unknown:
            raise ValueError(f"has flags that this version does not know: {', '.join(map(short, unknown[:5]))}")
        defaults = {name: field.default for name, field in FLAGS.items()}
        return defaults | {k: v if k == "script" else _recorded(k, v) for k, v in recorded.items()}
    except (OSError, ValueError, FlagError) as error:
        raise RunFolderError(f"{path}: cannot be read ({reason(error)}); expected the folder of a run") from None


def _recorded(name: str, value: Any) -> Any:
    """A value of config.json, which must be what the flag's text would have become: "3" and true are no integers."""
    field = FLAGS[name]
    kind, many = field.metadata["kind"], field.metadata["many"]
    if kind is SWITCH:
        good = isinstance(value, bool)
    elif many:
        good = isinstance(value, list) and all(_is_typed(kind, one) for one in value)
    else:
        good = _is_typed(kind, value) or (value is None and field.default is None)
    if not good:
        accepts = "true or false" if kind is SWITCH else f"a list, each {kind.accepts}" if many else kind.accepts
        raise FlagError(f"--{name} {short(value)}: expected {accepts}")
    return value if kind is SWITCH or value is None else check_value(name, value)


def _is_typed(kind: Kind, value: Any) -> bool:
    """Whether the value, written as text, is parsed to itself."""
    try:
        return type(value) in (int, float, str) and bool(kind.parse(str(value)) == value)
    except ValueError:
        return False


def resolve(given: dict[str, Any], script: str = "federated") -> Config:
    """Defaults that depend on other flags, and checks that need more than one flag."""
    if script != "baseline" and "match" in given:
        raise FlagError(f"--match {given['match']}: only run_baseline.py trains to match a run")
    if "match" in given:
        if not Path(given["match"]).is_dir():
            raise FlagError(f"--match {given['match']}: no such folder; expected that of a federated run")
        recorded = read_config(given["match"])
        if recorded["script"] != "federated":
            raise FlagError(f"--match {given['match']}: that is a {recorded['script']} run; expected a federated one")
        taken = {name: recorded[name] for name in MATCHED}
        if given.get("optimizer", "sgd") != "sgd":
            del taken["momentum"]
        given = taken | given

    K = given.get("num_clients", Config.num_clients)
    if "client_fraction" in given and "num_select_clients" in given:
        raise FlagError(
            f"--client_fraction {given['client_fraction']:g}: --num_select_clients says the same; give one of the two"
        )
    if "client_fraction" in given:
        # round, not int: int(0.29 * 100) is 28.
        m = max(round(given["client_fraction"] * K), 1)
    else:
        m = given.get("num_select_clients", min(Config.num_select_clients, K))
    if m > K:
        raise FlagError(f"--num_select_clients {m}: expected at most --num_clients, which is {K}")

    if given.get("algorithm") in SERVER_OPTIMIZERS:
        given = {"server_lr": SERVER_OPTIMIZERS[given["algorithm"]]} | given
    if given.get("algorithm") == "fedadagrad":
        given = {"server_momentum": 0.0} | given  # as in its paper
    if given.get("algorithm") == "fedsgd" and script != "baseline":
        for name, value in (("local_epoch", 1), ("batch_size", 0)):
            if given.get(name, value) != value:
                raise FlagError(f"--{name} {given[name]}: --algorithm fedsgd is E = 1 and B = 0; leave the flag out")
            given = given | {name: value}

    config = Config(**(given | {"num_select_clients": m}))
    check(config, given)
    return config


def check(config: Config, given: dict[str, Any]) -> None:
    """Refuse flags in `given` that nothing would read: they are mistakes the user should hear of."""
    for name, needed, holds in (
        ("momentum", "--optimizer sgd", config.optimizer == "sgd" or config.momentum == 0),
        ("alpha", "--partition dirichlet or quantity", config.partition in ("dirichlet", "quantity")),
        ("shards_per_client", "--partition shards", config.partition == "shards"),
        ("stack_size", "--engine stacked, distributed or auto", config.engine != "sequential"),
        ("workers", "--engine distributed or auto", config.engine in ("distributed", "auto")),
        ("keep_optimizer_state", "--engine sequential or auto", config.engine in ("sequential", "auto")),
        # FedNova's a_k are those of a velocity that starts every round at zero.
        ("keep_optimizer_state", "--momentum 0 with fednova", config.algorithm != "fednova" or config.momentum == 0),
        ("stop_at_target", "a --target_accuracy", bool(config.target_accuracy)),
        ("algorithm", "--optimizer sgd", config.algorithm not in NEED_SGD or config.optimizer == "sgd"),
        ("momentum", "another --algorithm", config.algorithm not in ("scaffold", "fsvrg") or config.momentum == 0),
        ("weight_decay", "another --algorithm", config.algorithm != "fsvrg" or config.weight_decay == 0),
        ("aggregate", "another --algorithm", config.algorithm not in NEED_MEAN or config.aggregate == "mean"),
        ("workers", "no --keep_optimizer_state", not config.keep_optimizer_state),
        ("proximal_mu", "--algorithm fedprox", config.algorithm == "fedprox"),
        ("server_lr", f"--algorithm {', '.join(SERVER_OPTIMIZERS)}", config.algorithm in SERVER_OPTIMIZERS),
        ("server_momentum", f"--algorithm {', '.join(SERVER_OPTIMIZERS)}", config.algorithm in SERVER_OPTIMIZERS),
        ("server_beta2", "--algorithm fedadam or fedyogi", config.algorithm in ("fedadam", "fedyogi")),
        ("server_tau", "--algorithm fedadagrad, fedadam or fedyogi", config.algorithm in list(SERVER_OPTIMIZERS)[1:]),
        ("trim", "--aggregate trimmed_mean", config.aggregate == "trimmed_mean"),
        ("byzantine", "--aggregate krum or multi_krum", "krum" in config.aggregate),
        ("attackers", "an --attack", config.attack is not None),
        ("attack_scale", "--attack sign_flip, gaussian or scaled", config.attack not in (None, "label_flip")),
        ("overwrite", "--run_dir", config.run_dir is not None),
        ("epoch", "no --match, which already says how long to train", config.match is None),
    ):
        if name in given and given[name] is not False and not holds:
            raise FlagError(f"--{name}{'' if given[name] is True else f' {given[name]}'}: needs {needed}")
    m, f = config.num_select_clients, config.byzantine
    if config.workers > m:
        raise FlagError(
            f"--workers {config.workers}: expected at most --num_select_clients, which is {m}; the others had no client"
        )
    if "krum" in config.aggregate and m < 2 * f + 3:
        raise FlagError(
            f"--byzantine {f}: {config.aggregate} needs at least 2 f + 3 = {2 * f + 3} clients a round, "
            f"and --num_select_clients is {m}"
        )
    if config.aggregate == "trimmed_mean" and config.trim > 0 and int(config.trim * m + 1e-9) == 0:
        raise FlagError(
            f"--trim {config.trim:g}: leaves out none of {m} clients a round; "
            f"expected at least {math.ceil(100 / m) / 100:g}, or more clients a round"
        )
    if config.attack and config.attackers > 0 and round(config.attackers * config.num_clients) == 0:
        raise FlagError(f"--attackers {config.attackers:g}: is none of --num_clients {config.num_clients}")


def identity(config: Config, script: str) -> dict[str, Any]:
    """The flags that make a run what it is: a checkpoint keeps them, and continues no other run."""
    flags = {name: getattr(config, name) for name in FLAGS if name not in RESUMABLE}
    return flags | {"script": script, "name": None, "out_dir": None}
