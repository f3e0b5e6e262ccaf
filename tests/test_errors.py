"""What can go wrong in a run: one line, an exit code, and no completed round lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import run_baseline
import run_federated
from tests.conftest import ROOT, SMALL


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
    from data.idx import IdxSet

    monkeypatch.setattr(data.mnist, "MNIST", IdxSet("MNIST", data.mnist.MNIST.sha256, 0, 1, ()))
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
    import fl.records.checkpoint

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(fl.records.checkpoint, "write_atomic", full)
    done = command("federated")
    assert done.code == 4
    assert "No space left on device" in done.err
    assert len(done.err.splitlines()) == 1


LIMITED = "import resource as r, sys, tests, run_federated as s; n = int(sys.argv.pop(1)); " \
          "sys.dont_write_bytecode = True; " \
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
    from fl.records.files import locked

    done = command("federated", folder="a")
    with locked(done.folder / ".lock"):
        again = command("federated", "--resume", folder="a")
    assert again.code == 4
    assert "another process" in again.err


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
    from fl.records import checkpoint

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


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_whose_exception_is_lost_still_ends_the_run(sign, command, monkeypatch):
    """As one is that strikes in a destructor."""
    import fl.recorded

    def strike(x, done):
        if done.now.t == 2:
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), sign)
                time.sleep(1)

    monkeypatch.setattr(fl.recorded, "check_finite", strike)
    done = command("federated", "--global_epoch 9")
    assert done.code == 130
    assert [record["round"] for record in done.records] == [0, 1, 2]


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


def test_an_old_python_is_one_line(tmp_path):
    code = "import sys; sys.version_info = (3, 9, 1); import fl"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "Python 3.10 or newer is needed, and this is 3.9\n")
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1\nexit 1\n')
    old.chmod(0o755)
    own = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "requirements.sh"], cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert done.stderr == "requirements.sh: Python 3.10 or newer is needed, and python3 is Python 3.9.1\n"
    assert done.returncode == 1
