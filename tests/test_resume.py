"""Runs that are continued, replaced or left alone: a folder holds one run, and that one whole."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

import run_baseline
import run_federated
from fl.record import RunFolder
from fl.records.checkpoint import load
from fl.records.reading import is_finished
from tests.conftest import SMALL


@pytest.mark.parametrize("script", ["federated", "baseline"])
@pytest.mark.parametrize(
    "flags", ["", "--optimizer adam --init_lr 0.01 --keep_optimizer_state --checkpoint_every 2", "--augment crop_flip"]
)
def test_a_run_extended_by_resume_equals_the_long_run(script, flags, command):
    part = command(script, f"{flags} --global_epoch 2 --epoch 2", folder="part")
    assert part.code == 0
    rest = command(script, "--resume --global_epoch 5 --epoch 5", folder="part")
    assert rest.code == 0
    whole = command(script, f"{flags} --global_epoch 5 --epoch 5")
    assert rest.sha256 == whole.sha256
    assert rest.untimed == whole.untimed


def interrupt_in_round(number, monkeypatch):
    import fl.recorded

    def interrupt(x, done):
        if done.now.t == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(fl.recorded, "check_finite", interrupt)


def test_checkpoint_every(command, monkeypatch):
    saved = []
    monkeypatch.setattr("fl.records.checkpoint.write_atomic", lambda path, content: saved.append(path.name))
    interrupt_in_round(5, monkeypatch)
    assert command("federated", "--global_epoch 9 --checkpoint_every 3").code == 130
    assert saved == ["checkpoint.pt"] * 3  # rounds 0 and 3, and round 4 when it was interrupted


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--global_epoch 2", "--global_epoch 2: the run in .* has 3 rounds already"),
        ("--stop_at_target", "--stop_at_target: needs a --target_accuracy"),
        ("--epoch 9 --match x", "--match x: the run in .* has None"),
    ],
)
def test_a_resumed_run_checks_its_flags_too(flags, message, command):
    first = command("federated", folder="a")
    before = (first.folder / "config.json").read_bytes()
    done = command("federated", f"--resume {flags}", folder="a")
    assert done.code == 2
    assert re.search(message, done.err)
    assert (first.folder / "config.json").read_bytes() == before


def test_an_interrupted_run_is_not_cut_short_at_a_round_without_evaluation(command, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_in_round(5, patch)
        assert command("federated", "--global_epoch 9 --eval_every 3", folder="a").code == 130
    done = command("federated", "--resume --global_epoch 4", folder="a")
    assert done.code == 2
    assert "ask for one more" in done.err
    done = command("federated", "--resume --global_epoch 5", folder="a")
    assert done.code == 0
    assert done.records[-1]["test_accuracy"] is not None


def test_adams_state_is_kept_beside_a_part_of_ones_own(own, command):
    flags = "--keep_optimizer_state --transform own.py:half"
    assert command("federated", f"{flags} --global_epoch 2", folder="a").code == 0
    rest = command("federated", "--resume --global_epoch 3", folder="a")
    assert rest.code == 0, rest.err
    assert rest.sha256 == command("federated", f"{flags} --global_epoch 3").sha256


def test_a_run_killed_as_it_is_extended_does_not_look_finished(command, monkeypatch):
    first = command("federated", "--global_epoch 2", folder="a")
    assert is_finished(first.folder, first.records)

    def killed(self, name, content):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_write_json", killed)
        assert command("federated", "--resume --global_epoch 4", folder="a").code == 130
    assert not is_finished(first.folder, first.records)
    assert len(command("federated", "--resume --global_epoch 4", folder="a").records) == 5


def test_stopped_at_target_and_resumed_says_that_there_is_nothing_to_do(command):
    first = command("federated", "--global_epoch 9 --init_lr 0.003 --target_accuracy 0.62 --stop_at_target", folder="a")
    rounds, sha256 = len(first.records), first.sha256
    again = command("federated", "--resume --global_epoch 20", folder="a")
    assert again.code == 0
    assert "every --target_accuracy is reached: nothing to do" in again.out
    assert again.sha256 == sha256
    more = command("federated", "--resume --target_accuracy 0.99 --global_epoch 20", folder="a")
    assert len(more.records) > rounds


@pytest.mark.parametrize(
    ("name", "value"),
    [("model", "vgg"), ("target_accuracy", None), ("global_epoch", "many"), ("init_lr", -3), ("dataset", "no"),
     ("resume", 1), ("colour", "red"), ("script", "other"), ("batch_size", [1])],
)  # fmt: skip
def test_a_changed_config_is_refused(name, value, command):
    done = command("federated", folder="a")
    path = done.folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    for again in (command("federated", "--resume", folder="a"), command("baseline", f"--match {done.folder}")):
        assert again.code == 4
        assert "config.json" in again.err
        assert len(again.err.splitlines()) == 1


@pytest.mark.parametrize("change", [{"init_lr": 99.0}, None])
def test_a_checkpoint_continues_no_other_run(change, command, tmp_path):
    done = command("federated", folder="a")
    path = done.folder / "config.json"
    if change:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        code = command("federated", "--resume --global_epoch 5", folder="a").code
    else:
        path.unlink()
        code = run_federated.run([*SMALL.split(), "--init_lr", "5", "--resume", "--run_dir", str(tmp_path / "a")])
        path.unlink(missing_ok=True)
        assert run_baseline.run([*SMALL.split(), "--resume", "--run_dir", str(tmp_path / "a")]) == 4
    assert code == 4
    assert load(done.folder / "checkpoint.pt")["round"] == 3


def test_a_run_that_fetched_its_data_can_be_resumed(command, monkeypatch):
    command("federated", folder="a")
    import tests.tiny

    served = tests.tiny.tiny
    monkeypatch.setattr(tests.tiny, "tiny", lambda d: dataclasses.replace(served(d), source="files elsewhere"))
    assert command("federated", "--resume --global_epoch 4", folder="a").code == 0


def test_resuming_a_finished_run_changes_nothing(command):
    first = command("federated", folder="a")
    sha256, records = first.sha256, first.records
    again = command("federated", "--resume", folder="a")
    assert again.code == 0
    assert again.sha256 == sha256
    assert again.records == records


def test_a_run_that_goes_on_is_no_longer_said_to_have_diverged(command):
    folder = command("federated", folder="a").folder
    (folder / "diverged.txt").write_text("round 4: the model is not finite\n")
    assert command("federated", "--resume --global_epoch 4", folder="a").code == 0
    assert not (folder / "diverged.txt").exists()


def test_resume_starts_a_run_where_there_is_none(command, tmp_path):
    argv = [*SMALL.split(), "--run_dir", str(tmp_path / "new"), "--resume"]
    assert run_federated.run(argv) == 0
    assert (
        command("federated", folder="plain").sha256
        == json.loads((tmp_path / "new/summary.json").read_text())["model_sha256"]
    )


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ("--resume --init_lr 0.2", 2, "--init_lr 0.2: the run in .* has 0.1"),
        ("--resume --seed 1", 2, "--seed 1: the run in .* has 0"),
        ("--dataset tiny", 4, "holds a run; add --resume or --overwrite"),
    ],
)
def test_a_run_folder_is_not_overwritten_or_changed_by_accident(flags, code, message, command):
    first = command("federated", folder="a")
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    done = command("federated", flags, folder="a")
    assert done.code == code
    assert re.search(message, done.err)
    assert len(done.err.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in first.folder.iterdir()} == before


def test_resume_by_the_other_script_is_refused(command):
    command("federated", folder="a")
    assert command("baseline", "--resume", folder="a").code == 4


def test_overwrite_replaces_the_run(command):
    command("federated", "--seed 5", folder="a")
    done = command("federated", "--overwrite", folder="a")
    assert done.sha256 == command("federated", folder="b").sha256
    assert len(done.records) == 4


def test_a_folder_of_other_things_is_never_touched(command, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text('{"architectures": ["BertModel"]}')
    for flags in ("", "--overwrite"):
        assert command("federated", flags, folder="b").code == 4
    assert (tmp_path / "b" / "config.json").read_text() == '{"architectures": ["BertModel"]}'
    (tmp_path / "a" / "thesis.tex").write_text("mine")
    for flags in ("", "--overwrite"):
        done = command("federated", flags, folder="a")
        assert done.code == 4
        assert "not a run's" in done.err
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["thesis.tex"]


def test_runs_of_one_second_get_folders_of_their_own(tmp_path, capsys):
    argv = [*SMALL.split(), "--out_dir", str(tmp_path / "runs"), "--name", "x", "--quiet", "--global_epoch", "1"]
    assert [run_federated.run(argv) for _ in range(3)] == [0, 0, 0]
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(names) == 3
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-federated-x(-\d+)?", name) for name in names)


def test_damaged_folders_are_refused(command):
    done = command("federated", folder="a")
    for name in ("checkpoint.pt", "metrics.jsonl", "config.json", "environment.json"):
        path = done.folder / name
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 0x80
        path.write_bytes(bytes(damaged))
        again = command("federated", "--resume", folder="a")
        assert again.code == 4, name
        assert name in again.err
        path.write_bytes(whole)
    assert command("federated", "--resume", folder="a").code == 0


def test_other_data_than_the_runs_own_is_refused(command, monkeypatch):
    command("federated", folder="a")
    import data.partition

    monkeypatch.setattr(data.partition.Partition, "sha256", lambda self: "other")
    done = command("federated", "--resume", folder="a")
    assert done.code == 4
    assert "partition_sha256" in done.err
