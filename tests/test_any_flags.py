"""Random command lines end with exit 0 or 2, never with a traceback, and leave nothing when refused."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import run_baseline
import run_federated
from fl.config import FLAGS

ODD = [
    "",
    "-1",
    "0",
    "1e3",
    "nan",
    "inf",
    "-inf",
    "ten",
    "1.5",
    "99999999999999999999",
    "é",
    "--",
    "@",
    "@nowhere",
    "a b",
    " ",
    '"',
    "'",
]
small = st.integers(-1, 6).map(str)
rate = st.sampled_from(["1e-4", "0.01", "0.1", "1", "0", "0.5"])
chances = st.sampled_from(["1,1", "0.9,0.2", "0,0", "1"])
VALUES = {
    "algorithm": st.sampled_from(["fedavg", "fedsgd", "fedprox", "fedadam", "scaffold", "fednova", "fsvrg", "x",
                                   "own.py:prox", "own.py:net"]),
    "proximal_mu": rate, "server_lr": rate, "server_momentum": rate, "server_beta2": rate, "server_tau": rate,
    "aggregate": st.sampled_from(["mean", "median", "trimmed_mean", "krum", "multi_krum", "geometric_median", "x",
                                   "own.py:middle", "own.py:nothing"]),
    "transform": st.sampled_from(["own.py:half", "own.py:half", "nowhere.py:half", "own.py:prox", "clip"]),
    "trim": rate, "byzantine": small, "attackers": rate, "attack_scale": rate,
    "attack": st.sampled_from(["label_flip", "sign_flip", "gaussian", "scaled", "sybil"]),
    "compress": st.sampled_from(["none", "quantise", "top_k", "random_mask", "sign", "zip"]),
    "compress_bits": small, "compress_density": rate,
    "data_drift": st.sampled_from(["none", "grow", "shift", "shrink"]), "drift_share": rate, "drift_rounds": small,
    "proxy_fraction": rate, "proxy_epochs": small,
    "client_test_fraction": rate, "client_eval_every": small, "personalise_epochs": small, "personal_layers": small,
    "charging": chances, "unmetered": chances, "idle": chances, "decline_rate": rate, "dropout_rate": rate,
    "straggler_rate": rate, "straggler_slowdown": small, "straggler_epochs": small, "over_select": small,
    "min_reports": small, "round_deadline": rate, "examples_per_second": small, "download_mbps": rate,
    "upload_mbps": rate, "speed_spread": rate,
    "sampling": st.sampled_from(["uniform", "poisson", "none"]), "clip_norm": rate, "clip_quantile": rate,
    "noise_multiplier": rate, "target_epsilon": st.sampled_from(["0", "8"]), "delta": st.sampled_from(["1e-4", "0"]),
    "local_noise": rate, "secure_threshold": rate,
    "engine": st.sampled_from(["auto", "sequential", "stacked", "none"]),
    "stack_size": small,
    "workers": st.sampled_from(["-1", "0"]),
    "timeout": rate,
    "precision": st.sampled_from(["fp32", "bf16", "tf32"]),
    "num_clients": st.integers(-1, 70).map(str), "num_select_clients": small, "client_fraction": rate,
    "global_epoch": st.integers(0, 2).map(str), "local_epoch": st.integers(0, 2).map(str),
    "batch_size": st.integers(-1, 100).map(str), "init_lr": rate, "lr_decay": rate,
    "optimizer": st.sampled_from(["adam", "sgd", "lbfgs"]), "momentum": rate, "weight_decay": rate,
    "epoch": st.integers(0, 2).map(str), "match": st.just("/nowhere"),
    "model": st.sampled_from(
        ["logistic", "2nn", "mlp", "small_cnn", "gn_cnn", "fast_cnn", "cnn", "char_lstm", "vgg", "own.py:net",
         "own.py:patterns"]
    ),
    "dataset": st.sampled_from(["tiny", "tiny", "own.py:patterns", "folder", "ragged_tokens", "synthetic_iid"]),
    "data_dir": st.just("/nowhere"), "text": st.just("/nowhere"),
    "hidden": st.sampled_from(["5", "64,3", "0", "3,", "a"]), "label": st.sampled_from(["a", "é"]),
    "client": st.just("a"), "drop": st.just("a,b"),
    "partition": st.sampled_from(["iid", "shards", "labels", "label_sets", "dirichlet", "dirichlet_balanced",
                                   "quantity", "none", "own.py:dealt"]),
    "label_sets": st.sampled_from(["0,1,2;0", "0;1;2", "0,0;1", ";", "a"]),
    "normalise": st.sampled_from(["standard", "unit", "centred", "x"]),
    "augment": st.sampled_from(["none", "crop_flip", "mcmahan2017", "x"]),
    "image_size": small, "test_fraction": rate, "labels_per_client": small, "min_examples": small, "beta": rate,
    "feature_noise": rate,
    "shards_per_client": small, "alpha": st.sampled_from(["0.01", "0.5", "10", "0"]),
    "stop_below": st.sampled_from(["0.9@1", "0.5@0", "1@", "2@1"]),
    "eval_every": small, "target_accuracy": rate, "seed": small,
    "device": st.sampled_from(["cpu", "auto", "cuda:99", "x"]),
    "name": st.sampled_from(["ok", "a/b", "."]), "checkpoint_every": small,
}  # fmt: skip
SWITCHES = [
    "keep_optimizer_state",
    "stop_at_target",
    "resume",
    "overwrite",
    "dry_run",
    "quiet",
    "tensorboard",
    "grey",
    "skip_bad",
    "insecure_noise",
    "secure_aggregation",
    "local_only",
]


# What some flags need; most of the time they come with it, because else nearly all lines would be refused.
PARTNERS = {
    "proxy_epochs": "proxy_fraction=0.2", "straggler_epochs": "straggler_rate=0.5", "attackers": "attack=sign_flip",
    "straggler_slowdown": "straggler_rate=0.5", "round_deadline": "upload_mbps=1", "speed_spread": "upload_mbps=1",
    "momentum": "optimizer=sgd", "proximal_mu": "algorithm=fedprox", "server_lr": "algorithm=fedadam",
    "trim": "aggregate=trimmed_mean", "labels_per_client": "partition=labels", "shards_per_client": "partition=shards",
    "label_sets": "partition=label_sets",
    "alpha": "partition=dirichlet", "attack_scale": "attack=scaled", "hidden": "model=mlp",
    "min_examples": "partition=dirichlet", "beta": "dataset=synthetic", "server_momentum": "algorithm=fedavgm",
    "server_beta2": "algorithm=fedyogi", "server_tau": "algorithm=fedyogi", "byzantine": "aggregate=krum",
    "compress_bits": "compress=quantise", "compress_density": "compress=top_k",
    "drift_share": "data_drift=grow", "drift_rounds": "data_drift=shift", "clip_quantile": "clip_norm=0.1",
    "noise_multiplier": "clip_norm=1", "target_epsilon": "clip_norm=1", "delta": "local_noise=1",
    "local_noise": "clip_norm=1", "insecure_noise": "noise_multiplier=1",
    "secure_threshold": "secure_aggregation",
    "client_eval_every": "client_test_fraction=0.5", "personalise_epochs": "client_test_fraction=0.1",
    "local_only": "client_test_fraction=0.2", "personal_layers": "model=2nn",
}  # fmt: skip


def test_the_strategies_know_every_flag():
    assert set(VALUES) | set(SWITCHES) | {"out_dir", "run_dir"} == set(FLAGS)


@st.composite
def command_lines(draw):
    words = []
    for name in draw(st.lists(st.sampled_from([*VALUES, *SWITCHES]), max_size=6)):
        if name in SWITCHES:
            words += [f"--{name}"]
        else:
            value = draw(VALUES[name] if draw(st.integers(0, 11)) else st.sampled_from(ODD))
            if name in PARTNERS and draw(st.integers(0, 4)):
                words += [f"--{PARTNERS[name]}"]
            words += [f"--{name}={value}"] if draw(st.booleans()) else [f"--{name}", value]
    if not draw(st.integers(0, 9)):
        words.insert(draw(st.integers(0, len(words))), draw(st.sampled_from([*ODD, "--nonsense", "-x", "word"])))
    return words


codes = []


@settings(max_examples=360, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(words=command_lines(), baseline=st.booleans(), named=st.booleans())
def check(words, baseline, named):
    place = Path(tempfile.mkdtemp())
    try:
        where = ["--run_dir", str(place / "run")] if named else ["--out_dir", str(place / "runs")]
        # The tiny data set and short runs by default; what the example draws comes after and wins.
        default = ["--dataset", "tiny", "--model", "logistic", "--global_epoch", "1", "--epoch", "1"]
        argv = [*default, *words, *where]
        code = (run_baseline if baseline else run_federated).run(argv)
        codes.append(code)
        left = list(place.iterdir())
        no_images = any(word.endswith("folder") for word in words)  # of --dataset folder, there are none
        assert code in (0, 2) or (code == 3 and no_images), argv
        if code:
            assert not left, argv
        elif not any(word == "--dry_run" for word in words):
            assert left, argv
    finally:
        shutil.rmtree(place)


def test_random_command_lines(monkeypatch, capsys, tmp_path):
    # Drawing is tested elsewhere and would be most of the time here.
    monkeypatch.setattr("fl.pictures.plot.save_curves", lambda path, *rest: path.write_bytes(b""))
    monkeypatch.setattr("fl.pictures.plot.save_partition", lambda path, *rest: path.write_bytes(b""))
    monkeypatch.setattr("fl.pictures.plot.save_drift", lambda path, *rest: path.write_bytes(b""))
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).with_name("own.py"), tmp_path)
    codes.clear()
    check()
    assert len(codes) >= 300
    assert codes.count(0) >= 60  # the strategy is not all refusals
    assert codes.count(2) >= 60
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert [path.name for path in tmp_path.iterdir()] == ["own.py"]


@pytest.mark.parametrize("script", [run_federated, run_baseline])
def test_help_exits_0(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.run(["--help"])
    assert stop.value.code == 0
