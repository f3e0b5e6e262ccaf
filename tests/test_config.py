"""Every flag does something, and has the default that users know."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fl.command_line import parse
from fl.config import FLAGS, Config
from fl.errors import RunnerError
from tests.plays import play


def test_the_eight_fixed_flags_and_their_defaults():
    fixed = {
        "data_dir": "data/", "batch_size": 100, "epoch": 15, "global_epoch": 5,
        "local_epoch": 5, "init_lr": 5e-5, "num_clients": 8, "num_select_clients": 4,
    }  # fmt: skip
    for script in ("federated", "baseline"):
        config = parse([], script, "")
        assert {name: getattr(config, name) for name in fixed} == fixed


WHO_ONLY_CHECKS = {
    "fl.config", "fl.command_line", "fl.check", "fl.flags.flag", "fl.names", "fl.algorithms", "fl.aggregates",
    "fl.transforms",
}  # fmt: skip


has_package = find_spec("dp_accounting") is not None  # without it there is no noise
has_cryptography = find_spec("cryptography") is not None  # without it there is no secure aggregation


def pictures(place: Path) -> Path:
    """A folder of images, for the flags that only such data sets read."""
    for name, colour in (("dark", 20), ("light", 220)):
        (place / name).mkdir(parents=True)
        for i in range(4):
            (place / name / f"{i}.pgm").write_bytes(b"P5 8 8 255\n" + bytes([colour + i] * 64))
    return place


def a_table(place: Path) -> Path:
    """A table with a column for each of the flags that name one."""
    place.write_text("height,colour,site,number\n" + "".join(f"{i % 7},{i % 2},{i % 3},{i}\n" for i in range(30)))
    return place


def test_every_flag_is_read_by_something(command, monkeypatch, tmp_path):
    """Record which fields the code reads that does not itself make a Config, over runs that use every flag."""
    read = set()
    original = Config.__getattribute__

    def recording(self, name):
        caller = sys._getframe(1).f_globals["__name__"]
        ours = caller.split(".")[0] in ("fl", "data", "run_federated", "run_baseline")
        if ours and caller not in WHO_ONLY_CHECKS:
            read.add(name)
        return original(self, name)

    monkeypatch.setattr(Config, "__getattribute__", recording)
    import fl.command_line

    lookup = fl.command_line.resolve

    def resolve(given, script="federated"):
        # These are read before there is a Config: they become --num_select_clients and the other script's flags.
        read.update({"client_fraction", "match"} & set(given))
        return lookup(given, script)

    monkeypatch.setattr(fl.command_line, "resolve", resolve)
    assert command("federated", "--target_accuracy 0.5 --stop_at_target --partition shards", folder="a").code == 0
    assert command("federated", "--partition dirichlet --dry_run").code == 0
    assert command("federated", "--resume", folder="a").code == 0
    import run_federated

    flags = "--dataset tiny --model logistic --num_clients 4 --global_epoch 1 --client_fraction 0.5 --name x"
    assert run_federated.run([*flags.split(), "--out_dir", str(tmp_path / "out")]) == 0
    assert command("baseline", "").code == 0
    assert command("federated", "--engine distributed --workers 1 --timeout 60").code == 0
    for flags in (
        "--algorithm fedprox --attack sign_flip --attackers 1.0",
        "--partition labels --labels_per_client 1",
        "--partition label_sets --label_sets 0,1;1,2;0;2",
        "--dataset synthetic --beta 0",
        f"--dataset folder --data_dir {pictures(tmp_path / 'pictures')} --grey --skip_bad --image_size 8",
        f"--dataset csv --data_dir {a_table(tmp_path / 'table.csv')} --label colour --client site --drop number",
        "--model mlp --hidden 4",
        f"--dataset shakespeare --text {play(tmp_path)} --model char_lstm --partition natural --num_clients 3",
        "--algorithm fedyogi --aggregate trimmed_mean --num_select_clients 4 --trim 0.25",
        "--aggregate krum --byzantine 0 --num_select_clients 4 --compress top_k --compress_density 0.5",
        "--compress quantise --compress_bits 4",
        "--proxy_fraction 0.2 --proxy_epochs 2 --straggler_rate 0.5 --straggler_epochs 1 --straggler_slowdown 2 "
        "--examples_per_second 9 --speed_spread 0",
        "--clip_norm 1 --clip_quantile 0.5 --sampling poisson",
        *["--clip_norm 1 --sampling poisson --local_noise 1 --target_epsilon 9 --delta 1e-4 --insecure_noise"]
        * has_package,
        *["--secure_aggregation --secure_threshold 0.6"] * has_cryptography,
    ):
        assert command("federated", flags).code == 0
    argv = ["--match", str(tmp_path / "a"), "--run_dir", str(tmp_path / "b")]
    import run_baseline

    assert run_baseline.run(argv) == 0
    unknown = set() if has_package else {"local_noise", "target_epsilon", "delta", "insecure_noise"}
    unknown |= set() if has_cryptography else {"secure_threshold"}
    assert read | unknown >= set(FLAGS), set(FLAGS) - read


# For every flag that shapes training: two values must not give the same model (or the same cohorts, or records).
@pytest.mark.parametrize(
    ("flag", "one", "other"),
    [
        ("num_clients", "4", "5"), ("num_select_clients", "2", "3"), ("global_epoch", "3", "2"),
        ("local_epoch", "2", "1"), ("batch_size", "5", "0"), ("init_lr", "0.1", "0.05"), ("lr_decay", "1", "0.5"),
        ("optimizer", "sgd", "adam"), ("momentum", "0", "0.9"), ("weight_decay", "0", "0.1"),
        ("model", "logistic", "2nn"), ("partition", "iid", "shards"), ("seed", "0", "1"),
        ("shards_per_client", "1 --partition shards", "3 --partition shards"),
        ("alpha", "0.5 --partition dirichlet", "5 --partition dirichlet"),
        ("labels_per_client", "1 --partition labels", "2 --partition labels"),
        ("label_sets", "0,1;1,2;0;2 --partition label_sets", "0;1,2;0,2;1 --partition label_sets"),
        ("normalise", "standard", "unit"), ("normalise", "unit", "centred"), ("augment", "none", "crop_flip"),
        ("alpha", "0.5 --partition quantity", "5 --partition quantity"),
        ("proxy_fraction", "0", "0.2"), ("proxy_epochs", "1 --proxy_fraction 0.2", "2 --proxy_fraction 0.2"),
        ("compress", "none", "sign"), ("compress_bits", "2 --compress quantise", "3 --compress quantise"),
        ("compress_density", "0.1 --compress top_k", "0.2 --compress top_k"),
        ("dropout_rate", "0", "0.5"), ("decline_rate", "0", "0.5"), ("over_select", "1", "2"), ("idle", "1,1", "1,0.3"),
        ("charging", "1,1", "1,0.3"), ("unmetered", "1,1", "1,0"),
        ("min_reports", "1 --dropout_rate 0.5 --global_epoch 9", "2 --dropout_rate 0.5 --global_epoch 9"),
        ("straggler_rate", "0.1 --straggler_epochs 1", "1 --straggler_epochs 1"),
        ("straggler_epochs", "1 --straggler_rate 1", "2 --straggler_rate 1"), ("sampling", "uniform", "poisson"),
        ("clip_norm", "0.1", "0.2"), ("clip_quantile", "0.2 --clip_norm 0.1", "0.8 --clip_norm 0.1"),
        ("hidden", "5 --model mlp", "5,5 --model mlp"),
        ("feature_noise", "0", "0.1"),
        ("min_examples", "1 --partition quantity", "9 --partition quantity"),
    ],
)  # fmt: skip
def test_a_training_flag_changes_the_model(flag, one, other, command):
    assert command("federated", f"--{flag} {one}").sha256 != command("federated", f"--{flag} {other}").sha256


@pytest.mark.parametrize(
    ("flag", "one", "other"),
    [
        ("epoch", "3", "2"), ("batch_size", "5", "0"), ("seed", "0", "1"), ("init_lr", "0.1", "0.05"),
        ("lr_decay", "1", "0.5"), ("optimizer", "sgd", "adam"), ("momentum", "0", "0.9"), ("weight_decay", "0", "0.1"),
        ("model", "logistic", "2nn"), ("normalise", "standard", "unit"), ("augment", "none", "crop_flip"),
    ],
)  # fmt: skip
def test_a_training_flag_changes_the_baseline(flag, one, other, command):
    assert command("baseline", f"--{flag} {one}").sha256 != command("baseline", f"--{flag} {other}").sha256


def test_keep_optimizer_state_changes_the_model(command):
    momentum = "--momentum 0.9 --num_clients 2"
    assert command("federated", momentum).sha256 != command("federated", f"{momentum} --keep_optimizer_state").sha256


def test_every_error_class_has_an_exit_code_of_its_own():
    codes = [kind.exit_code for kind in RunnerError.__subclasses__() if kind.__module__ == "fl.errors"]
    assert sorted(codes) == [2, 3, 4, 5, 6]
