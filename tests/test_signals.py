"""Signals at any moment: a run ends within seconds, leaves nothing behind, and can be resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from fl.guard import guarded
from fl.processes.distributed import Distributed
from fl.signals import obey, uninterrupted
from tests.conftest import ROOT
from tests.sweeps import begin, members
from tests.sweeps.lines import lines
from tests.sweeps.signals import TWO_WORKERS, WITHIN_SECONDS, signals

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")


def workers_of(process) -> list[int]:
    """The run's workers, and none of the helpers that it calls for a moment."""
    found = []
    for pid in members(process.pid):
        with suppress(OSError):
            found += [pid] * (b"fl.processes.worker" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return found


def starting(folder: Path):
    """A run of two workers whose second process has just begun to start."""
    process = begin([*TWO_WORKERS, "--run_dir", str(folder / "run")], folder / "tmp")
    deadline = time.monotonic() + 60
    while not workers_of(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


def end(process):
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < WITHIN_SECONDS
    deadline = time.monotonic() + 2
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not members(process.pid)
    return err.splitlines()


def test_a_worker_whose_rank_0_ends_before_it_gives_a_job_says_nothing():
    """Rank 0 may be stopped at any moment, also between starting a worker and writing to it."""
    code = "from fl.processes.worker import main; main('builtins:print')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_workers_start_ends_the_run_at_once(number, tmp_path):
    process = starting(tmp_path)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    assert end(process) == ["run_federated.py: interrupted"]
    assert process.returncode == 130
    assert not list((tmp_path / "tmp").iterdir())


@needs_proc
def test_a_worker_that_dies_while_it_starts_ends_the_run_at_once(tmp_path):
    process = starting(tmp_path)
    (worker,) = workers_of(process)
    os.kill(worker, signal.SIGKILL)
    (line,) = end(process)
    assert "worker 1 ended with code -9" in line
    assert process.returncode == 6


def test_a_worker_that_is_gone_before_it_gets_its_job_is_told_of(command, monkeypatch):
    class Gone(subprocess.Popen):
        def __init__(self, arguments, **more):
            is_worker = "fl.processes.worker" in str(arguments)
            super().__init__([sys.executable, "-c", ""] if is_worker else arguments, **more)
            if is_worker:
                self.wait()

    monkeypatch.setattr(subprocess, "Popen", Gone)
    done = command("federated", "--workers 2")
    assert done.code == 6
    assert "worker 1 ended with code 0" in done.err
    monkeypatch.undo()
    assert command("federated", "--workers 2 --timeout 60").code == 0  # so the start that failed left nothing behind


def test_a_start_that_failed_while_it_joined_is_the_last_of_its_process(command, monkeypatch):
    """Because torch.distributed counts it, and would wait for the workers of the next under another name."""

    def fail(*_, **__):
        raise RuntimeError

    monkeypatch.setattr(Distributed, "half_way", False)
    monkeypatch.setattr("torch.distributed.init_process_group", fail)
    done = command("federated", "--workers 2")
    assert (done.code, done.err) == (6, "run_federated.py: rank 0 of 2, start: a worker has gone\n")
    done = command("federated", "--workers 2")
    assert done.code == 6
    assert done.err.endswith("failed while it met its workers; begin a new process\n")


@needs_proc
def test_local_workers_listen_on_the_loopback_interface_only(tmp_path):
    process = begin([*TWO_WORKERS, "--global_epoch", "100000", "--run_dir", str(tmp_path / "run")], tmp_path / "tmp")
    metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and metrics.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    addresses, running = listening(members(process.pid)), members(process.pid)
    process.kill()
    process.communicate()
    assert len(running) == 2
    assert addresses  # gloo's
    assert addresses <= {"0100007F", "00000000000000000000000001000000"}  # 127.0.0.1 and ::1


def listening(processes) -> set[str]:
    """The local addresses, in the kernel's hexadecimal, at which these processes listen."""
    inodes = set()
    for pid in processes:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since
                target = os.readlink(descriptor)
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            for row in map(str.split, Path(table).read_text().splitlines()[1:]):
                if row[3] == "0A" and row[9] in inodes:
                    found.add(row[1].partition(":")[0])
    return found


def test_a_second_signal_during_the_shutdown_ends_it(capsys):
    def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            time.sleep(30)

    before = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    began = time.monotonic()
    try:
        assert guarded("x", work) == 130
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 5
    assert capsys.readouterr().err == "x: interrupted\n"


def test_a_signal_waits_for_what_belongs_together():
    done = []

    def work():
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGHUP)
            done.append("the rest of the block")
        done.append("what comes after")

    assert guarded("x", work) == 130
    assert done == ["the rest of the block"]


def test_a_signal_that_an_import_turned_into_another_exception_is_still_a_signal(capsys):
    def work():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise SystemError("initialization failed") from None

    assert guarded("x", work) == 130
    assert capsys.readouterr().err == "x: interrupted\n"
    obey_after = guarded("x", obey)  # what was asked of one run is not asked of the next
    assert obey_after == 0


@pytest.mark.slow
def test_random_valid_command_lines_end_well_and_resume(tmp_path, monkeypatch):
    monkeypatch.setattr("fl.pictures.plot.save_curves", None)  # put back when the test is over
    monkeypatch.setattr("fl.pictures.plot.save_partition", None)
    assert lines(40, 1, tmp_path) == []


@pytest.mark.slow
@needs_proc
def test_signals_at_any_moment(tmp_path):
    assert signals(12, 3, tmp_path) == []
