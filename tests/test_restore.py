"""Whole and sealed checkpoints that no run wrote, and JSON that no run wrote: refused, with nothing changed."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re

import pytest
import torch

import run_baseline
import run_federated
from fl.records import checkpoint

NAN = float("nan")
KEYS = ("identity", "round", "w", "kept", "metrics_bytes", "metrics_sha256", "wall_seconds")


@pytest.fixture
def refused(capsys):
    """refused(script, folder, case): --resume ends with exit code 4 and one line that names the file."""

    def check(script, folder, case):
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        capsys.readouterr()
        run = {"federated": run_federated, "baseline": run_baseline}[script].run
        code = run(["--resume", "--run_dir", str(folder), "--global_epoch", "9", "--epoch", "9"])
        err = capsys.readouterr().err
        assert (code, len(err.splitlines())) == (4, 1), (case, err)
        assert re.search(
            r"/(checkpoint\.pt|clients/\d+-\d+\.pt|config\.json|environment\.json|metrics\.jsonl): ", err
        ), (case, err)
        assert len(err) < 700, case
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before, case

    return check


def put(*way):
    """A change that sets content[key][key]... = value."""
    *keys, last, value = way

    def change(content):
        for key in keys:
            content = content[key]
        content[last] = value

    return change


def drop(*way):
    """A change that deletes content[key][key]..."""
    *keys, last = way

    def change(content):
        for key in keys:
            content = content[key]
        del content[last]

    return change


def of_any_run():
    yield from (drop(key) for key in KEYS)
    yield from (put(key, value) for key in KEYS for value in (None, torch.zeros(2), NAN, True))
    yield from (put("round", value) for value in (1.0, -1, 2, 10**30, math.inf))
    yield from (put("metrics_bytes", value) for value in (0, -1, 10**30))
    yield from (put("wall_seconds", value) for value in (-1.0, math.inf, 10**400))
    yield from (put("identity", "seed", value) for value in (torch.zeros(2), NAN, [1]))
    yield put("identity", "another", 1)
    yield put("w", "extra", torch.zeros(1))
    yield drop("w", "1.bias")
    others = (torch.zeros(4), torch.zeros(3, dtype=torch.float64), torch.zeros(3).to_sparse(), torch.full((3,), NAN))
    yield from (put("w", "1.bias", value) for value in (*others, torch.zeros(3, device="meta"), [0.0] * 3, None))
    yield put("kept", {})


def of_fedavg():
    yield from (put("kept", "server", value) for value in (None, [], {"velocity": {}}))
    yield from (put("kept", "clients", value) for value in (None, [], {1: 9}, {1: -1}, {"1": 1}, {1: 1.0}, {1: 1}))


def of_adam(*way):
    """Changes to the state_dict of an Adam at content[way]."""
    yield from (put(*way, value) for value in (None, [], {}))
    yield drop(*way, "state")
    yield from (put(*way, "state", key, {}) for key in (0, 9, "0"))
    yield put(*way, "state", 0, None)
    yield drop(*way, "state", 0, "exp_avg")
    one = torch.zeros(1, 64)
    others = (torch.zeros(2), one.double().expand(3, 64), one.expand(3, 64), one.repeat(3, 1).requires_grad_(), None)
    yield from (put(*way, "state", 0, "exp_avg", value) for value in others)
    yield put(*way, "state", 0, "momentum_buffer", torch.zeros(3, 64))
    yield from (
        put(*way, "state", 0, "step", value) for value in (torch.tensor(-1.0), torch.tensor(NAN), torch.ones(2))
    )


def of_kept_optimizers():
    yield from of_adam("files", 1, "kept", "optimizer")
    yield from of_a_file()


def of_a_state(*way):
    """Changes to tensors by parameter at content[way]."""
    yield from (put(*way, value) for value in (None, [], {}))
    yield drop(*way, "1.bias")
    others = (torch.zeros(4), torch.zeros(3, dtype=torch.float64), [0.0] * 3)
    yield from (put(*way, "1.bias", value) for value in others)
    yield put(*way, "2.bias", torch.zeros(3))


def of_fedyogi():
    yield from of_a_state("kept", "server", "second")
    yield drop("kept", "server", "momentum")


def of_scaffold():
    yield from of_a_state("kept", "server", "c")
    yield from of_a_state("files", 1, "kept", "c_k")
    yield put("kept", "server", {})
    yield from of_a_file()


def of_a_file():
    """Changes to the file of client 1."""
    yield from (put("files", 1, key, value) for key in ("client", "round") for value in (None, 0, "1"))
    yield from (put("files", 1, value) for value in (None, [], {}))
    yield from (put("files", 1, "kept", value) for value in (None, [], {}, {"another": 1}))
    yield from (put("kept", "clients", key, 1) for key in ("1", 2, -1))


def of_momentum():
    yield put("kept", "server", "optimizer", "state", 0, "momentum_buffer", torch.zeros(2))
    yield drop("kept", "server", "optimizer", "state", 0, "momentum_buffer")


@pytest.mark.parametrize(
    ("script", "flags", "changes"),
    [
        ("federated", "", [*of_any_run(), *of_fedavg()]),
        ("federated", "--optimizer adam --keep_optimizer_state --num_clients 2", list(of_kept_optimizers())),
        ("federated", "--algorithm fedyogi", list(of_fedyogi())),
        ("federated", "--algorithm scaffold --num_clients 2", list(of_scaffold())),
        ("baseline", "--optimizer adam", [put("kept", {}), *of_adam("kept", "server", "optimizer")]),
        ("baseline", "--momentum 0.9", list(of_momentum())),
    ],
)
def test_a_sealed_checkpoint_that_no_run_wrote(script, flags, changes, command, refused):
    done = command(script, flags, folder="a")
    path = done.folder / "checkpoint.pt"
    content = checkpoint.load(path)
    paths = {k: done.folder / "clients" / f"{k}-{t}.pt" for k, t in content["kept"]["clients"].items()}
    content["files"] = {k: checkpoint.load(paths[k]) for k in paths}
    whole = {path: path.read_bytes() for path in (path, *paths.values())}
    for number, change in enumerate(changes):
        other = copy.deepcopy(content)
        change(other)
        for k, file in other.pop("files").items():
            checkpoint.save(paths[k], file)
        checkpoint.save(path, other)
        refused(script, done.folder, number)
    for path, before in whole.items():
        path.write_bytes(before)
    assert command(script, "--resume --global_epoch 9 --epoch 9", folder="a").code == 0


def test_a_sealed_checkpoint_of_something_else(command, refused):
    done = command("federated", folder="a")
    for content in (None, [], [1], 3, "x", {}, torch.zeros(3), {"round": NAN}):
        checkpoint.save(done.folder / "checkpoint.pt", content)
        refused("federated", done.folder, content)


def test_a_sealed_file_that_is_no_torch_file(tmp_path):
    for payload in (b"", b"\x80\x02", b"\x80\x04K\x01.", b"PK\x03\x04", b"text", bytes(1000)):
        digest = hashlib.sha256(payload).hexdigest().encode()
        (tmp_path / "c.pt").write_bytes(payload + checkpoint.MARK + digest)
        with pytest.raises(checkpoint.RunFolderError, match=r"c\.pt: not a checkpoint \("):
            checkpoint.load(tmp_path / "c.pt")


def test_settings_of_an_optimizer_are_those_of_the_flags(command):
    """Other settings in a checkpoint, such as those of another version of torch, change nothing."""
    command("baseline", "--optimizer adam", folder="whole")
    whole = command("baseline", "--resume --epoch 5", folder="whole")
    path = command("baseline", "--optimizer adam", folder="a").folder / "checkpoint.pt"
    content = checkpoint.load(path)
    content["kept"]["server"]["optimizer"]["param_groups"] = [{"params": "x", "betas": None, "lr": NAN}]
    checkpoint.save(path, content)
    assert command("baseline", "--resume --epoch 5", folder="a").sha256 == whole.sha256


DEEP = "[" * 100_000 + "]" * 100_000
HUGE = "9" * 400


@pytest.mark.parametrize("value", [DEEP, f'{{"a": {DEEP}}}', "Infinity", "NaN", "1e999", HUGE, "9" * 5000, "-Infinity"])
def test_odd_json_in_a_resumed_run(value, command, refused):
    """As the whole file, and as a value in it; metrics.jsonl with a checkpoint that is sealed over it."""
    done = command("federated", "--global_epoch 1", folder="a")
    for name, key in (("environment.json", "threads"), ("config.json", "init_lr")):
        path = done.folder / name
        whole = path.read_text()
        for text in (value, re.sub(f'"{key}": [^,]*', lambda _, key=key: f'"{key}": {value}', whole)):
            assert text != whole
            path.write_text(text)
            refused("federated", done.folder, name)
        path.write_text(whole)
    path, metrics = done.folder / "checkpoint.pt", done.folder / "metrics.jsonl"
    content, whole = checkpoint.load(path), metrics.read_text()
    for key in ("round", "test_accuracy", "examples"):
        lines = re.sub(f'"{key}": [^,]*', lambda _, key=key: f'"{key}": {value}', whole).encode()
        metrics.write_bytes(lines)
        sealed = {"metrics_bytes": len(lines), "metrics_sha256": hashlib.sha256(lines).hexdigest()}
        checkpoint.save(path, content | sealed)
        refused("federated", done.folder, key)


@pytest.mark.parametrize(
    "change",
    [
        {"resumed_at_round": 3}, {"resumed_at_round": ["x"]}, {"resumed_at_round": [1.5]}, {"resumed_at_round": {}},
        {"resumed_with": 3}, {"resumed_with": [3]}, {"data_sha256": [["x"]] * 1000}, {"partition_sha256": None},
    ],
)  # fmt: skip
def test_an_environment_that_no_run_wrote(change, command, refused):
    path = command("federated", folder="a").folder / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused("federated", path.parent, change)


def test_records_that_no_run_wrote(command, refused):
    """With a checkpoint that is sealed over them."""
    done = command("federated", "--global_epoch 1", folder="a")
    path, metrics = done.folder / "checkpoint.pt", done.folder / "metrics.jsonl"
    content, (first, second) = checkpoint.load(path), metrics.read_text().splitlines()
    record = json.loads(second)
    others = [
        [], [first], [first, second, second], [second, first], [first, "3"], [first, "[]"], [first, "{}"], ["", first],
        [first, second.replace('"examples": ', '"examples": "x')], [second, second],
        *([first, json.dumps(record | {"examples": value})] for value in (None, "1", [1], True)),
        *([first, json.dumps(record | {"round": value})] for value in (None, "1", 2, 1.0, True)),
        [json.dumps(json.loads(first) | {"test_accuracy": None}), second],
    ]  # fmt: skip
    for lines in others:
        text = "".join(line + "\n" for line in lines).encode()
        metrics.write_bytes(text)
        sealed = {"metrics_bytes": len(text), "metrics_sha256": hashlib.sha256(text).hexdigest()}
        checkpoint.save(path, content | sealed)
        refused("federated", done.folder, lines)
