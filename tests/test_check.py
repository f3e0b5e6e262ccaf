"""What flags and the names that they take ask of each other."""

from __future__ import annotations

import ast
import os

import pytest

import data
import fl.aggregates
import fl.algorithms
import fl.models
import fl.transforms
from fl.check import rates, readers_of, resolve
from fl.command_line import parse
from fl.comparing.compared import counts
from fl.config import DEFAULTS, FLAGS, MATCHED, NAMES, RESUMABLE, Config, identity
from fl.errors import FlagError
from fl.flags.entry import Entry
from fl.flags.flag import ANEW
from fl.names import entry_of
from tests.conftest import ROOT


def federated(words: str) -> Config:
    return parse(words.split(), "federated", "")


@pytest.mark.parametrize(
    ("K", "C", "m"), [(100, 0.29, 29), (100, 0.1, 10), (100, 0.001, 1), (8, 0.5, 4), (3, 1.0, 3), (1000, 0.57, 570)]
)
def test_client_fraction_rounds(K, C, m):
    assert federated(f"--num_clients {K} --client_fraction {C}").num_select_clients == m


def test_few_clients_lower_the_default_cohort():
    assert federated("--num_clients 2").num_select_clients == 2


def test_what_resumed_matched_and_compared_runs_make_of_flags():
    assert {
        "global_epoch", "epoch", "target_accuracy", "stop_at_target", "stop_below", "device", "data_dir", "text",
        "workers", "timeout", "run_dir", "resume", "overwrite", "checkpoint_every", "dry_run", "quiet", "tensorboard",
        "personalise_epochs", "local_only",
    } == RESUMABLE  # fmt: skip
    assert {
        "batch_size", "init_lr", "lr_decay", "optimizer", "momentum", "weight_decay",
        "precision", "model", "dataset", "data_dir", "eval_every", "target_accuracy", "seed",
        "image_size", "grey", "test_fraction", "skip_bad", "hidden", "label", "client", "drop", "text", "normalise",
        "augment", "beta",
    } == set(MATCHED)  # fmt: skip
    assert {name for name in FLAGS if not counts(name, DEFAULTS | {"stop_at_target": True})} == {
        "seed", "name", "workers", "timeout", "run_dir", "out_dir", "resume", "overwrite", "checkpoint_every",
        "dry_run", "quiet", "data_dir", "device", "match", "client_fraction", "tensorboard",
        "client_eval_every", "personalise_epochs", "local_only",
    }  # fmt: skip
    assert not counts("target_accuracy", DEFAULTS)
    for dataset in ("folder", "csv", "own.py:load"):  # where it is data of the user's own
        assert counts("data_dir", DEFAULTS | {"dataset": dataset})
    anew = {name for name in FLAGS if FLAGS[name].metadata["resume"] == ANEW}
    assert anew == {"resume", "overwrite", "dry_run", "quiet"}
    plain = identity(Config(transform=("a.py:x", "b.py:y"), target_accuracy=(0.5,)), "federated")
    assert plain["transform"] == "a.py:x b.py:y"
    assert "target_accuracy" not in plain
    assert all(isinstance(value, str | int | float | None) for value in plain.values())


def test_entries_speak_of_flags_that_there_are():
    entries = [entry_of(name, one) for name in NAMES for one in FLAGS[name].metadata["kind"].table]
    assert len(entries) > 20
    for entry in entries:
        for flags in (entry.needs, entry.defaults, entry.fixes, entry.reads):
            assert set(flags) <= set(FLAGS)
        assert bool(entry.fixes) == bool(entry.meaning)


@pytest.fixture
def new(monkeypatch):
    """Something new for most flags that take names."""

    def refuse(config):
        raise FlagError("--num_select_clients: too many")

    algorithm = Entry(
        "x:x", needs={"optimizer": "sgd", "momentum": 0}, defaults={"server_lr": 7.0}, fixes={"local_epoch": 2},
        meaning="E = 2", reads=("server_lr",),
    )  # fmt: skip
    monkeypatch.setitem(fl.algorithms.ALGORITHMS, "new", algorithm)
    monkeypatch.setitem(fl.aggregates.AGGREGATES, "new", Entry("x:x", check=refuse))
    monkeypatch.setitem(data.DATASETS, "new", Entry("x:x", needs={"workers": 0}))
    monkeypatch.setitem(data.PARTITIONS, "new", Entry("x:x", needs={"seed": 0}))
    monkeypatch.setitem(fl.transforms.TRANSFORMS, "clip", Entry("x:x", needs={"engine": "stacked"}, reads=("epoch",)))
    monkeypatch.setitem(fl.transforms.TRANSFORMS, "noise", Entry("x:x", defaults={"eval_every": 3}))
    monkeypatch.setitem(fl.models.MODELS, "new", Entry("x:x", needs={"init_lr": 0.5}))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--algorithm new", "--algorithm new: needs --optimizer sgd"),
        ("--algorithm new --optimizer sgd --momentum 0.5", "--momentum 0.5: needs another --algorithm"),
        (
            "--algorithm new --optimizer sgd --local_epoch 3",
            "--local_epoch 3: --algorithm new is E = 2; leave the flag",
        ),
        (
            "--server_lr 2",
            f"--server_lr 2.0: needs --algorithm {', '.join(readers_of('server_lr')['algorithm'])} or new",
        ),
        ("--aggregate new", "--num_select_clients: too many"),
        ("--dataset new --workers 2", "--workers 2: needs another --dataset"),
        ("--model new", "--model new: needs --init_lr 0.5"),
        ("--partition new --seed 3", "--seed 3: needs another --partition"),
        ("--transform noise --transform clip --epoch 3", "--transform clip: needs --engine stacked"),
        ("--transform noise --epoch 3", "--epoch 3: needs --transform clip"),
    ],
)
def test_what_a_new_name_asks_of_other_flags_stands_in_its_entry_alone(words, message, new):
    with pytest.raises(FlagError) as error:
        federated(words)
    assert str(error.value).startswith(message)


def test_a_new_name_brings_its_own_defaults(new):
    config = federated("--algorithm new --optimizer sgd")
    assert (config.server_lr, config.local_epoch) == (7.0, 2)
    assert federated("--algorithm new --optimizer sgd --server_lr 3 --local_epoch 2").server_lr == 3.0
    assert federated("--transform noise --transform clip --engine stacked --epoch 3").eval_every == 3
    # The baseline does nothing with an algorithm, so it keeps its own epochs.
    assert parse(["--algorithm", "new", "--optimizer", "sgd"], "baseline", "").local_epoch == Config.local_epoch


def test_flags_that_belong_to_names():
    assert readers_of("alpha") == {
        "partition": ["dirichlet", "dirichlet_balanced", "quantity"],
        "dataset": ["synthetic"],
    }
    assert readers_of("proximal_mu") == {"algorithm": ["fedprox"]}
    assert readers_of("attack_scale") == {"attack": ["sign_flip", "gaussian", "scaled"]}
    assert readers_of("init_lr") == {}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ["--init_lr 5e-05"]),
        ("--algorithm fedprox", ["--init_lr 5e-05", "--proximal_mu 0.01"]),
        ("--algorithm fedadam --init_lr 2", ["--init_lr 2", "--server_lr 0.01"]),
        (f"--algorithm {__file__}:x --server_lr 3", ["--init_lr 5e-05", "--server_lr 3"]),
    ],
)
def test_rates_to_lower(words, expected):
    assert rates(federated(words)) == expected


def test_a_matching_baseline_takes_what_it_can_use(command):
    folder = command("federated", "--momentum 0.9").folder
    taken = resolve({"match": str(folder)}, "baseline")
    assert (taken.optimizer, taken.momentum, taken.num_clients) == ("sgd", 0.9, Config.num_clients)
    assert resolve({"match": str(folder), "optimizer": "adam"}, "baseline").momentum == 0
    with pytest.raises(FlagError, match=r"--momentum 0.9: needs --optimizer sgd"):
        resolve({"match": str(folder), "optimizer": "adam", "momentum": 0.9}, "baseline")


def test_a_baseline_matches_the_latest_federated_run(command, tmp_path, monkeypatch):
    first = command("federated", folder="runs/a")
    second = command("federated", "--seed 1", folder="runs/b")
    command("baseline", folder="runs/c")
    (tmp_path / "runs" / "d").mkdir()
    (tmp_path / "runs" / "d" / "metrics.jsonl").write_text("")  # of no run
    earlier = (second.folder / "metrics.jsonl").stat().st_mtime - 10  # on some file systems times are whole seconds
    os.utime(first.folder / "metrics.jsonl", (earlier, earlier))
    monkeypatch.chdir(tmp_path)
    assert resolve({"match": "latest"}, "baseline").match == str(second.folder.relative_to(tmp_path))
    newest = (second.folder / "metrics.jsonl").stat().st_mtime + 10
    os.utime(first.folder / "metrics.jsonl", (newest, newest))
    assert resolve({"match": "latest", "out_dir": str(tmp_path / "runs")}, "baseline").match == str(first.folder)
    with pytest.raises(FlagError, match=r"--match latest: there is no federated run in nowhere; name a run's folder"):
        resolve({"match": "latest", "out_dir": "nowhere"}, "baseline")


def test_a_resumed_baseline_goes_on_matching_the_run_that_was_the_latest(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command("federated", folder="runs/a")
    first = command("baseline", "--match latest", folder="runs/base")
    assert first.code == 0, first.err
    command("federated", "--seed 1", folder="runs/b")
    again = command("baseline", "--match latest --resume", folder="runs/base")
    assert (again.code, again.sha256) == (0, first.sha256)


def test_the_rate_of_fsvrg_is_not_matched(command):
    folder = command("federated", "--algorithm fsvrg --optimizer sgd --init_lr 3").folder
    assert resolve({"match": str(folder)}, "baseline").init_lr != 3


def test_a_rate_is_matched_with_its_optimizer_only(command):
    folder = command("federated", "--init_lr 0.3").folder
    assert resolve({"match": str(folder)}, "baseline").init_lr == 0.3
    assert resolve({"match": str(folder), "optimizer": "adam"}, "baseline").init_lr == Config.init_lr


def test_no_name_is_compared_with_outside_its_own_file():
    """A new algorithm, rule or partition is a file and an entry: nothing else may ask which one it is."""
    names = {one for name in NAMES for one in FLAGS[name].metadata["kind"].table}
    modules = {one: entry_of(name, one).target.split(":")[0] for name in NAMES
               for one in FLAGS[name].metadata["kind"].table}  # fmt: skip
    found = []
    for path in (*(ROOT / "fl").rglob("*.py"), *(ROOT / "data").rglob("*.py"), *ROOT.glob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare | ast.MatchValue):
                words = [c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)]
                found += [f"{path}:{node.lineno}" for word in words if word in names and modules[word] != module]
    assert len(names) > 20
    assert found == []


def test_an_algorithm_that_needs_a_model_that_can_be_stacked(command, monkeypatch):
    monkeypatch.setitem(fl.models.MODELS, "dropout", "tests.test_golden:dropout_net")
    done = command("federated", "--algorithm fsvrg --model dropout")
    assert done.code == 2
    assert done.err.startswith("run_federated.py: --algorithm fsvrg: dropout ")
    assert done.err.endswith("; choose another --model\n")
