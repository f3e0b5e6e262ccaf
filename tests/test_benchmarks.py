"""The benchmarks that are run rarely, or on machines that are not here: what they make of figures, and their errors."""

from __future__ import annotations

import ast
import importlib
import json
import os
import socket
import subprocess
import sys
import time

import pytest
import torch

from benchmarks import federation, loading, network, rivals, rounds, why_2nn
from benchmarks.beside import Run, table, verdicts
from benchmarks.contenders import WORKLOADS
from benchmarks.dropout_cnn import dropped
from benchmarks.padded_cnn import padded
from fl.command_line import parse
from fl.guard import guarded
from fl.models.mcmahan2017 import cnn
from tests.conftest import ROOT

real_data = pytest.mark.skipif(not (ROOT / "data/MNIST/raw").exists(), reason="needs MNIST in data/")


def test_beside_compares_medians_and_counts_what_the_old_default_would_have_taken():
    seconds = {"default": 40, "default, beside": 70, "gn_cnn": 8, "2nn": 4, "2nn, beside": 12, "logistic": 2,
               "logistic, beside": 2}  # fmt: skip
    runs = {name: [Run(s + more, s - 1, 0.0) for more in (0, 3, -0.5)] for name, s in seconds.items()}
    found = verdicts(runs)
    assert {one["what"]: (one["value"], one["held"]) for one in found} == {
        "seconds of the default run": (40, True),
        "default run, times that of gn_cnn": (40 / (8 + 24 * 7), True),
        "default run beside, times alone": (70 / 40, True),
        "2nn rounds beside, times alone": (11 / 3, False),
        "logistic rounds beside, times alone": (1, True),
    }
    lines = table(runs, found).splitlines()
    assert [line for line in lines if "missed" in line] == [line for line in lines if line.startswith("2nn rounds")]


@pytest.mark.slow
@real_data
def test_beside_runs(tmp_path):
    command = [sys.executable, "-m", "benchmarks.beside", "--turns", "1", "--only", "logistic", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr  # a single turn on a machine in use decides nothing
    runs = json.loads((tmp_path / "beside.json").read_text())["runs"]
    assert sorted(runs) == ["logistic", "logistic, beside"]
    assert all(0 < one["rounds"] < one["seconds"] for many in runs.values() for one in many)


def test_what_a_feature_adds_is_the_difference_of_medians():
    lines = federation.table({"nothing": [0.1, 0.2, 0.9], "devices": [0.25, 0.22, 0.1]}).splitlines()
    assert lines[2:] == [
        "| nothing | 3 | 200.0 (150.0 to 550.0) |  |",
        "| devices | 3 | 220.0 (160.0 to 235.0) | +10.0% |",
    ]


@pytest.mark.parametrize("name", federation.FEATURES)
def test_the_flags_of_a_feature_are_such_that_its_rounds_can_go_on(name):
    flags = f"{federation.SETTING} {federation.FEATURES[name]}"
    if "--noise_multiplier" in flags:
        pytest.importorskip("dp_accounting", reason="needs the package of sh requirements.sh dp")
    config = parse(flags.split(), "federated", "")
    assert config.num_select_clients * 600 == federation.EXAMPLES
    assert config.engine == "stacked"


@pytest.mark.slow
@real_data
def test_the_cost_of_a_feature_is_measured(tmp_path):
    command = [sys.executable, "-m", "benchmarks.federation", "--turns", "2", "--only", "data drift"]
    done = subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds = json.loads((tmp_path / "federation.json").read_text())["processor_seconds"]
    assert {name: len(values) for name, values in seconds.items()} == {"nothing": 2, "data drift": 2}


def test_every_workload_has_turns_and_rounds():
    assert set(rounds.TURNS) == set(rounds.BURST) == set(WORKLOADS)


def test_the_published_jobs_are_what_the_flags_say():
    words = rivals.flags_of("flute", 100)
    flags = dict(zip(words[::2], words[1::2], strict=True))
    assert flags == {"--model": "logistic", "--num_clients": "1000", "--num_select_clients": "10", "--batch_size": "10",
                     "--init_lr": "0.03", "--local_epoch": "1", "--optimizer": "sgd", "--global_epoch": "100",
                     "--eval_every": "20"}  # fmt: skip
    words = rivals.flags_of("blazefl", 5)
    assert words[words.index("--local_epoch") + 1] == "5"
    assert words[words.index("--num_select_clients") + 1] == words[words.index("--num_clients") + 1] == "100"


def test_a_run_of_a_rival_s_job_is_read_from_its_records(monkeypatch):
    monkeypatch.setitem(WORKLOADS, "flute", WORKLOADS["flute"] | {"dataset": "benchmarks/made_up.py:digits"})
    found = rivals.ours("flute", 2)
    assert (len(found["round_seconds"]), found["rounds"]) == (2, 2)
    assert 0 < sum(found["round_seconds"]) + found["evaluate_seconds"] < found["seconds"]


def test_images_are_linked_without_their_cache(tmp_path):
    for name in ("train/cat/1.png", "test/cat/2.png", ".decoded-0.pt"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_text(name)
    loading.linked(tmp_path / "images", tmp_path / "links")
    found = {str(path.relative_to(tmp_path / "links")): path.read_text()
             for path in (tmp_path / "links").rglob("*") if path.is_file()}  # fmt: skip
    assert found == {name: name for name in ("train/cat/1.png", "test/cat/2.png")}


def test_the_table_is_as_large_as_asked_and_has_as_many_cells_in_each_row(tmp_path):
    loading.write_table(tmp_path / "table.csv", 0.3)
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert 0.3e6 <= (tmp_path / "table.csv").stat().st_size < 0.45e6
    assert {line.count(",") for line in lines} == {15}
    assert lines[0].endswith("site,label")


def gpu(*words):
    environment = {key: value for key, value in os.environ.items() if key != "OUT"} | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(["bash", "benchmarks/gpu.sh", *map(str, words)], cwd=ROOT, env=environment,
                          capture_output=True, text=True)  # fmt: skip


def test_gpu_says_that_there_is_none():
    done = gpu()
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "no CUDA GPU" in done.stderr


@pytest.mark.slow
@real_data
def test_gpu_goes_through_its_motions_without_one(tmp_path):
    done = gpu("--cpu", tmp_path / "results")
    assert done.returncode == 0, done.stdout + done.stderr
    names = {path.name for path in (tmp_path / "results").iterdir()}
    assert names == {"gpu.json", "gpu.log", "memory-cpu.json", "rounds-logistic-cpu.json"}
    result = json.loads((tmp_path / "results" / "gpu.json").read_text())
    assert result["same_bits_twice"]
    assert [step["exit_code"] for step in result["steps"]] == [0] * 5
    assert result["torch"] == torch.__version__


@pytest.mark.parametrize(("name", "deviation", "bias"), [
    ("tutorial", 0.1, 0.1), ("small", 0.01, 0.0), ("fan_in", 784**-0.5, 0.0), ("glorot", (2 / 984) ** 0.5, 0.0),
])  # fmt: skip
def test_first_weights_have_the_deviation_that_they_are_named_for(name, deviation, bias):
    torch.manual_seed(0)
    model = getattr(why_2nn, name)((1, 28, 28), 10)
    assert sum(p.numel() for p in model.parameters()) == 199_210
    first, *_ = why_2nn.layers(model)
    # A normal distribution that is cut off at two deviations has 0.880 of its deviation left.
    left = 1.0 if name == "glorot" else 0.880
    assert first.weight.std().item() == pytest.approx(left * deviation, rel=0.01)
    assert first.weight.abs().max().item() <= 2 * deviation
    assert torch.cat([layer.bias for layer in why_2nn.layers(model)]).tolist() == [pytest.approx(bias)] * 410


def test_the_cnn_with_dropout_has_the_same_weights():
    torch.manual_seed(0)
    plain = cnn((1, 28, 28), 10)
    torch.manual_seed(0)
    model, x = dropped((1, 28, 28), 10), torch.randn(2, 1, 28, 28)
    assert torch.equal(model.eval()(x), plain(x))
    assert not torch.equal(model.train()(x), plain(x))


def test_the_padded_cnn_has_larger_maps_and_the_same_weights():
    torch.manual_seed(0)
    other = cnn((1, 28, 28), 10).state_dict()
    torch.manual_seed(0)
    model = padded((1, 28, 28), 10)
    assert all(torch.equal(other[name], tensor) for name, tensor in model.state_dict().items())
    maps, x = [], torch.zeros(1, 1, 28, 28)
    for layer in list(model)[:7]:
        x = layer(x)
        maps.append(x.shape[-1])
    assert maps == [28, 28, 14, 14, 14, 7, 3136]


@pytest.mark.parametrize("name", why_2nn.HYPOTHESES)
def test_a_hypothesis_is_a_command_line(name):
    config = parse([*why_2nn.SETTING, *why_2nn.own_flags(why_2nn.HYPOTHESES[name])], "federated", "")
    assert (config.num_clients, config.local_epoch, config.batch_size) == (100, 1, 10)


def test_the_same_order_is_each_clients_own_in_every_round():
    order = why_2nn.same_order(0, [(3, 0), (3, 7), (4, 0)], 50, torch.device("cpu"))
    assert torch.equal(order[0], order[1])
    assert not torch.equal(order[0], order[2])
    assert order.sort(1).values.tolist() == [list(range(50))] * 3


@real_data
def test_pixels_with_a_large_mean_are_ill_conditioned():
    (standard, _), (unit, _), (centred, share) = map(why_2nn.conditioning, ("standard", "unit", "centred"))
    assert 1 < standard < unit < centred
    assert 0.5 < share < 1


def test_rounds_of_a_hypothesis(monkeypatch):
    """On three patterns, whose target is within reach of a few rounds."""
    tiny = "--dataset tiny --model logistic --num_clients 4 --local_epoch 1 --batch_size 5 --optimizer sgd --device cpu"
    monkeypatch.setattr(why_2nn, "SETTING", tiny.split())
    monkeypatch.setattr(why_2nn, "TARGET", 0.95)
    usual = why_2nn.rounds_of("", "0.002", "0.5", 0, 40)
    assert 1 < usual < 40
    assert why_2nn.rounds_of("", "0.002", "0.5", 0, 1) is None
    assert why_2nn.rounds_of("", "0.004", "0.5", 0, 40) < usual
    asked = []
    monkeypatch.setattr(why_2nn, "same_order", lambda *words: asked.append(words) or why_2nn.shuffles(*words))
    assert why_2nn.rounds_of(why_2nn.SAME_ORDER, "0.002", "0.5", 0, 40) == usual  # as the stand-in shuffles as usual
    assert len(asked) >= usual
    asked.clear()
    why_2nn.rounds_of("", "0.002", "0.5", 0, 1)
    assert asked == []
    assert why_2nn.said([usual, None], 40) == ">40"


def test_wrong_words_for_the_hypotheses_are_one_line(capsys):
    for words, said in (
        ("--only nope", "--only nope: expected a pattern of "),
        ("--seeds 0", "--seeds 0: expected an int"),
    ):
        assert guarded("why_2nn", lambda words=words: why_2nn.main(words.split())) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"why_2nn: {said}")
        assert err.count("\n") == 1


def test_the_relay_counts_bytes_and_holds_them_back():
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = network.Relay(seconds=0.1)
        begin = time.monotonic()
        with socket.create_connection(("127.0.0.1", relay(server.getsockname()[1]))) as client:
            client.sendall(b"question")
            there, _ = server.accept()
            with there:
                assert there.recv(100) == b"question"
                there.sendall(b"answer")
                assert client.recv(100) == b"answer"
    assert time.monotonic() - begin >= 0.2
    assert relay.bytes == {"up": 8, "down": 6}


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_it_finds_what_it_imports_from_the_package(path):
    """Most run for minutes, so that no test runs them. What else they need may be missing."""
    ours = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in ("fl", "data", "benchmarks")
    ]
    for node in ours:
        module = importlib.import_module(str(node.module))
        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
