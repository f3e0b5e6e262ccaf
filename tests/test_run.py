"""Both scripts from flags to run folder, on the tiny data set."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

import run_baseline
import run_federated
from fl.checkpoint import load, model_sha256
from fl.config import MATCHED
from fl.record import OURS, RECORD_KEYS, rounds_to_target
from tests.conftest import ROOT, SMALL

FEDERATED_FILES = set(OURS)
BASELINE_FILES = FEDERATED_FILES - {"partition.png"}


@pytest.mark.parametrize(("script", "files"), [("federated", FEDERATED_FILES), ("baseline", BASELINE_FILES)])
def test_a_run_leaves_the_whole_folder_and_ends_with_the_two_lines(script, files, command):
    done = command(script, "--target_accuracy 0.3 --target_accuracy 0.9999")
    assert done.code == 0
    assert {path.name for path in done.folder.iterdir()} == files
    assert [record["round"] for record in done.records] == [0, 1, 2, 3]
    assert all(set(record) == RECORD_KEYS for record in done.records)
    lines = done.out.splitlines()
    assert re.fullmatch(r"Test Accuracy = \d+\.\d\d%", lines[-2])
    assert re.fullmatch(r"Test Loss = \d+\.\d{3}", lines[-1])
    assert float(lines[-2][16:-1]) == pytest.approx(done.summary["test_accuracy"] * 100, abs=0.005)
    assert sum(line.startswith("round ") for line in lines) == 4
    assert set(done.summary) == {
        "test_accuracy", "test_loss", "best_test_accuracy", "rounds", "rounds_to_target",
        "wall_seconds", "model_sha256", "parameters",
    }  # fmt: skip
    model = torch.load(done.folder / "model.pt", weights_only=True)
    assert model_sha256(model) == done.sha256
    assert done.summary["rounds_to_target"]["0.3"] == rounds_to_target(done.records, 0.3)
    assert done.err == ""


def test_records_count_what_was_done(command):
    done = command("federated", "--num_clients 4 --num_select_clients 3 --batch_size 4 --local_epoch 2")
    sizes = [16, 15, 15, 15]
    model_bytes = 4 * (64 * 3 + 3)
    for record in done.records[1:]:
        clients = record["clients"]
        assert len(clients) == 3
        assert record["examples"] == 2 * sum(sizes[k] for k in clients)
        assert record["local_steps"] == 2 * 3 * 4
        assert record["downlink_bytes"] == record["uplink_bytes"] == 3 * model_bytes
    baseline = command("baseline", "--batch_size 4").records
    assert [record["examples"] for record in baseline] == [0, 61, 61, 61]
    assert [record["local_steps"] for record in baseline] == [0, 16, 16, 16]
    assert all(record["clients"] == [] and record["uplink_bytes"] == 0 for record in baseline)


def test_quiet_prints_two_lines(command):
    assert len(command("federated", "--quiet").out.splitlines()) == 2


def test_same_seed_same_bits_other_seed_other_bits(command):
    one, same, other = command("federated"), command("federated"), command("federated", "--seed 1")
    assert one.sha256 == same.sha256
    assert one.untimed == same.untimed
    assert one.sha256 != other.sha256


def test_cohorts_depend_on_nothing_but_seed_and_sizes_of_the_draw(command):
    runs = [
        command("federated", flags)
        for flags in ("", "--model 2nn", "--optimizer adam", "--partition shards", "--keep_optimizer_state")
    ]
    cohorts = [[record["clients"] for record in run.records] for run in runs]
    assert all(cohort == cohorts[0] for cohort in cohorts)
    assert len({tuple(c) for c in cohorts[0][1:]}) > 1  # drawn anew, not once


def test_both_scripts_start_from_the_same_weights(command):
    federated, baseline = command("federated"), command("baseline")
    for key in ("test_accuracy", "test_loss"):
        assert federated.records[0][key] == baseline.records[0][key]


def test_both_learn(command):
    flags = "--global_epoch 10 --epoch 10"
    assert command("federated", flags).summary["test_accuracy"] == 1.0
    assert command("baseline", flags).summary["test_accuracy"] == 1.0


def test_eval_every_leaves_the_rest_null_and_evaluates_the_last(command):
    done = command("federated", "--global_epoch 5 --eval_every 3")
    assert [record["test_accuracy"] is not None for record in done.records] == [True, False, False, True, False, True]
    assert done.sha256 == command("federated", "--global_epoch 5").sha256


def test_stop_at_target_ends_the_run(command):
    done = command("federated", "--global_epoch 30 --target_accuracy 0.9 --target_accuracy 0.5 --stop_at_target")
    assert done.records[-1]["test_accuracy"] >= 0.9
    assert all(record["test_accuracy"] < 0.9 for record in done.records[:-1])
    assert len(done.records) < 31


def test_a_run_can_be_of_no_rounds(command):
    assert command("federated", "--global_epoch 0").records[-1]["round"] == 0
    assert command("baseline", "--epoch 0").summary["rounds"] == 0


@pytest.mark.parametrize(
    ("script", "words"), [("federated", ["K = 4", "u = E n / (K B) = 6.1", "780"]), ("baseline", ["39 gradient steps"])]
)
def test_dry_run_prints_the_plan_and_writes_nothing(script, words, command):
    done = command(script, "--dry_run")
    assert done.code == 0
    assert not done.folder.exists()
    for word in words:
        assert word in done.out


MATCHING = "--momentum 0.5 --weight_decay 0.01 --lr_decay 0.9 --eval_every 3 --target_accuracy 0.4"


def test_match_processes_as_many_examples_as_often(command):
    federated = command("federated", f"--partition quantity --global_epoch 4 --seed 3 {MATCHING}")
    matched = command("baseline", f"--match {federated.folder}")
    assert [r["examples"] for r in matched.records] == [r["examples"] for r in federated.records]
    assert matched.records[0]["test_loss"] == federated.records[0]["test_loss"]
    assert [r["test_loss"] is None for r in matched.records] == [r["test_loss"] is None for r in federated.records]
    ours, theirs = (json.loads((done.folder / "config.json").read_text()) for done in (matched, federated))
    assert {name: ours[name] for name in MATCHED} == {name: theirs[name] for name in MATCHED}
    other_seed = command("baseline", f"--match {federated.folder} --seed 4")
    assert other_seed.records[0]["test_loss"] != federated.records[0]["test_loss"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such folder"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: (path.mkdir(), (path / "config.json").write_text("{")), "cannot be read"),
        (
            lambda path: (path.mkdir(), (path / "config.json").write_text('{"script": "x"}')),
            "not a run's flags",
        ),
    ],
)
def test_match_needs_a_federated_run(make, message, command, tmp_path):
    make(tmp_path / "m")
    done = command("baseline", f"--match {tmp_path}/m")
    assert done.code in (2, 4)
    assert message in done.err
    assert not done.folder.exists()


@pytest.mark.parametrize("script", ["federated", "baseline"])
@pytest.mark.parametrize("flags", ["", "--optimizer adam --init_lr 0.01 --keep_optimizer_state --checkpoint_every 2"])
def test_a_run_extended_by_resume_equals_the_long_run(script, flags, command):
    part = command(script, f"{flags} --global_epoch 2 --epoch 2", folder="part")
    assert part.code == 0
    rest = command(script, "--resume --global_epoch 5 --epoch 5", folder="part")
    assert rest.code == 0
    whole = command(script, f"{flags} --global_epoch 5 --epoch 5")
    assert rest.sha256 == whole.sha256
    assert rest.untimed == whole.untimed


def interrupt_in_round(number, monkeypatch):
    import fl.rounds

    def interrupt(w, t, config):
        if t == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(fl.rounds, "check_finite", interrupt)


def test_checkpoint_every(command, monkeypatch):
    saved = []
    monkeypatch.setattr("fl.checkpoint.write_atomic", lambda path, content: saved.append(path.name))
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


def test_divergence_is_exit_5_and_keeps_the_rounds_before(command):
    done = command("federated", "--init_lr 1e30 --model 2nn")
    assert done.code == 5
    assert len(done.err.splitlines()) == 1
    assert "--init_lr 1e+30: training diverged" in done.err
    assert [record["round"] for record in done.records] == [0]
    assert (done.folder / "checkpoint.pt").exists()
    assert command("baseline", "--init_lr 1e30 --model 2nn").code == 5


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ("--num_clients 100", 2, "--num_clients 100: expected at most 61"),
        ("--partition shards --shards_per_client 40", 2, "lower one of them"),
        ("--device cuda:7", 2, "--device cuda:7: not on this machine; expected one of auto, "),
        ("--device mps", 2, "--device mps: not on this machine"),
        ("--data_dir /nowhere --dataset mnist", 3, "--data_dir"),
    ],
)
def test_what_only_the_data_can_tell_is_refused_with_nothing_on_disk(flags, code, message, command, monkeypatch):
    import data.mnist

    monkeypatch.setattr(data.mnist, "MNIST", data.mnist.IdxSet("MNIST", data.mnist.MNIST.sha256, 0, 1, ()))
    if "/nowhere" in flags and os.geteuid() == 0:
        flags = flags.replace("/nowhere", "/proc/nowhere")  # root may write nearly anywhere
    done = command("federated", flags)
    assert done.code == code
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not done.folder.exists()


def test_an_unwritable_run_dir_is_exit_4(command, tmp_path):
    (tmp_path / "file").write_text("")
    done = command("federated", folder="file/run")
    assert done.code == 4
    assert len(done.err.splitlines()) == 1


def test_a_full_disk_is_exit_4(command, monkeypatch):
    import fl.checkpoint

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(fl.checkpoint, "write_atomic", full)
    done = command("federated")
    assert done.code == 4
    assert "No space left on device" in done.err
    assert len(done.err.splitlines()) == 1


LIMITED = "import resource as r, sys, tests, run_federated as s; n = int(sys.argv.pop(1)); " \
          "r.setrlimit(r.RLIMIT_FSIZE, (n, n)); sys.exit(s.run(sys.argv[1:]))"  # fmt: skip


@pytest.mark.parametrize("limit", [3_000, 12_000])
def test_a_disk_that_fills_up_is_exit_4(limit, tmp_path):
    """The system refuses files above `limit` bytes: records, checkpoints or pictures, whichever is first."""
    flags = [*SMALL.split(), "--global_epoch", "60", "--quiet", "--run_dir", str(tmp_path / "a")]
    done = subprocess.run([sys.executable, "-c", LIMITED, str(limit), *flags], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.returncode == 4
    assert "File too large" in done.stderr


def test_an_output_that_is_full_is_one_line(tmp_path):
    code = "import sys, tests, run_federated as s; sys.exit(s.run(sys.argv[1:]))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, *SMALL.split(), "--run_dir", str(tmp_path / "a")],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 4
    assert done.stderr.splitlines() == ["run_federated.py: output: No space left on device"]


def test_a_run_in_progress_is_locked(command):
    from fl.files import locked

    done = command("federated", folder="a")
    with locked(done.folder / ".lock"):
        again = command("federated", "--resume", folder="a")
    assert again.code == 4
    assert "another process" in again.err


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


def script_in_a_process(script, *flags):
    code = f"import sys, tests, {script} as s; sys.exit(s.run(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *SMALL.split(), *map(str, flags)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(("sign", "script"), [(signal.SIGINT, "run_federated"), (signal.SIGTERM, "run_baseline")])
def test_interrupted_is_exit_130_after_a_checkpoint(sign, script, tmp_path):
    long = ("--global_epoch", 10**6, "--epoch", 10**6, "--checkpoint_every", 10**6, "--run_dir", tmp_path / "a")
    process = script_in_a_process(script, *long)
    metrics = tmp_path / "a" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_bytes().count(b"\n") > 20):
        time.sleep(0.01)
    process.send_signal(sign)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    from fl import checkpoint

    rounds = metrics.read_bytes().count(b"\n") - 1
    assert checkpoint.load(tmp_path / "a" / "checkpoint.pt")["round"] == rounds
    module = {"run_federated": run_federated, "run_baseline": run_baseline}[script]
    flag = "--global_epoch" if script == "run_federated" else "--epoch"
    resume = ["--resume", "--run_dir", str(tmp_path / "a"), "--quiet", flag, str(rounds + 3)]
    assert module.run(resume) == 0
    fresh = [*SMALL.split(), "--quiet", flag, str(rounds + 3), "--run_dir", str(tmp_path / "b")]
    assert module.run(fresh) == 0
    hashes = [json.loads((tmp_path / f / "summary.json").read_text())["model_sha256"] for f in "ab"]
    assert hashes[0] == hashes[1]


def test_a_reader_that_goes_away_is_no_traceback(tmp_path):
    process = script_in_a_process("run_federated", "--global_epoch", 300, "--run_dir", tmp_path / "a")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 130
    assert "Traceback" not in process.stderr.read()


def test_out_of_memory_is_one_line(command, monkeypatch):
    import fl.engines.sequential as sequential

    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(sequential, "train", no_memory)
    done = command("federated", "--engine sequential")
    assert done.code == 2
    assert "--batch_size" in done.err
    assert len(done.err.splitlines()) == 1


def curve(*accuracies):
    return [{"round": t, "test_accuracy": accuracy} for t, accuracy in enumerate(accuracies)]


@pytest.mark.parametrize(
    ("records", "target", "expected"),
    [
        (curve(0.1, 0.5, 0.9), 0.7, 1.5),
        (curve(0.1, 0.5, 0.9), 0.5, 1.0),
        (curve(0.1, 0.6, 0.4, 0.8), 0.7, 2.5),  # monotone: from the best so far, not from the dip
        (curve(0.1, None, None, 0.7), 0.4, 1.5),
        (curve(0.9, 0.95), 0.5, 0.0),
        (curve(0.1, 0.2), 0.5, None),
        (curve(0.1, float("nan"), 0.9), 0.5, 1.5),
    ],
)  # fmt: skip
def test_rounds_to_target(records, target, expected):
    assert rounds_to_target(records, target) == (None if expected is None else pytest.approx(expected))
