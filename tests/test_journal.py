"""Writes that fail half-way, once or for good: the run ends with one line, and resumed it has the same bits."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import run_baseline
import run_federated
from fl.records.journal import Journal
from tests.conftest import ROOT, SMALL, SMALL_BASELINE

FULL = (errno.ENOSPC, "No space left on device")


def failing_write(monkeypatch, number: int, cut_back: bool = True):
    """os.write does half of the `number`-th call and fails in the next one; os.ftruncate may fail then, too."""
    calls, write, truncate = [], os.write, os.ftruncate

    def half(descriptor, content):
        calls.append(descriptor)
        if len(calls) == number:
            return write(descriptor, bytes(content)[: len(content) // 2])
        if len(calls) == number + 1:
            raise OSError(*FULL)
        return write(descriptor, content)

    def refused(descriptor, size):
        if not cut_back:
            raise OSError(*FULL)
        truncate(descriptor, size)

    monkeypatch.setattr(os, "write", half)
    monkeypatch.setattr(os, "ftruncate", refused)


def failing(name: str, monkeypatch, number: int):
    """The `number`-th call of os.fsync or os.replace fails."""
    calls, whole = [], getattr(os, name)

    def refuse(*arguments):
        calls.append(name)
        if len(calls) == number:
            raise OSError(*FULL)
        return whole(*arguments)

    monkeypatch.setattr(os, name, refuse)


def test_a_line_that_is_taken_in_pieces_is_written_whole(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, bytes(content)[:3]))
    journal = Journal(tmp_path / "j", b"")
    journal.append(b"0123456789\n")
    assert (tmp_path / "j").read_bytes() == b"0123456789\n"
    assert journal.size == 11


@pytest.mark.parametrize(("cut_back", "rest"), [(True, b""), (False, b"seco")])
def test_half_a_line_is_taken_back_and_never_counted(cut_back, rest, tmp_path, monkeypatch):
    journal = Journal(tmp_path / "j", b"")
    journal.append(b"first\n")
    before = journal.size, journal.sha256
    failing_write(monkeypatch, 1, cut_back)
    with pytest.raises(OSError, match="No space"):
        journal.append(b"second!\n")
    assert (tmp_path / "j").read_bytes() == b"first\n" + rest
    assert (journal.size, journal.sha256) == before


def test_a_sync_that_failed_once_is_not_believed_again(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "j", b"")
    failing("fsync", monkeypatch, 1)
    for _ in range(2):
        with pytest.raises(OSError, match=r"No space|an earlier write was lost"):
            journal.sync()


FLAGS = "--checkpoint_every 2 --optimizer adam --init_lr 0.01"
ROUNDS = {"federated": "--global_epoch 4", "baseline": "--epoch 4"}


@pytest.fixture
def ends_well(command):
    """The same run undisturbed, and one in the folder "a" that ended with exit code 4 and is resumed."""

    def check(script, done):
        assert done.code == 4
        assert "No space left on device" in done.err
        assert len(done.err.splitlines()) == 1
        assert not list(done.folder.glob(".*"))
        small = SMALL if script == "federated" else SMALL_BASELINE
        argv = f"{small} {FLAGS} {ROUNDS[script]} --resume --run_dir {done.folder}".split()
        assert {"federated": run_federated, "baseline": run_baseline}[script].run(argv) == 0
        if not (done.folder / "../whole").exists():
            command(script, f"{FLAGS} {ROUNDS[script]}", folder="whole")
        whole = done._replace(folder=done.folder / "../whole")
        assert (done.sha256, done.untimed) == (whole.sha256, whole.untimed)

    return check


@pytest.mark.parametrize("cut_back", [True, False])
@pytest.mark.parametrize(("script", "line"), [("federated", 1), ("federated", 3), ("federated", 4), ("baseline", 5)])
def test_half_a_line_of_metrics(line, cut_back, script, command, ends_well, monkeypatch):
    with monkeypatch.context() as patch:
        failing_write(patch, line, cut_back)
        done = command(script, f"{FLAGS} {ROUNDS[script]}", folder="a")
    ends_well(script, done)


@pytest.mark.parametrize(("name", "most"), [("fsync", 13), ("replace", 10)])
def test_a_sync_or_a_rename_fails_at_any_moment(name, most, command, ends_well, monkeypatch):
    """Of config.json, environment.json, metrics.jsonl, partition.png, checkpoints, model, summary and curves."""
    codes = []
    for number in range(1, most + 1):
        with monkeypatch.context() as patch:
            failing(name, patch, number)
            flags = f"{FLAGS} {ROUNDS['federated']}"
            done = command("federated", f"{flags} --overwrite" if number > 1 else flags, folder="a")
        codes.append(done.code)
        if done.code:
            ends_well("federated", done)
        else:
            assert "png not written" in done.err
    assert codes.count(0) == 2  # the pictures
    with monkeypatch.context() as patch:  # there are no more
        failing(name, patch, most + 1)
        assert command("federated", flags, folder="b").err == ""


LIMITED = """
import resource, signal, sys, tests, run_federated
sys.dont_write_bytecode = True
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
sys.exit(run_federated.run(sys.argv[1:]))
"""


def test_a_limit_that_cuts_a_line(command, tmp_path: Path):
    """The limit holds a checkpoint but not the records of 60 rounds, and falls within a line."""
    flags = "--global_epoch 60 --checkpoint_every 100"
    argv = [*SMALL.split(), *flags.split(), "--quiet", "--run_dir", str(tmp_path / "a")]
    done = subprocess.run([sys.executable, "-c", LIMITED, *argv], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].endswith("a: cannot be written (File too large)")
    lines = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    assert 5000 < len(lines) <= 9000
    assert lines.endswith(b"}\n")
    again, whole = command("federated", "--resume", folder="a"), command("federated", flags, folder="whole")
    assert (again.sha256, again.untimed) == (whole.sha256, whole.untimed)


@pytest.mark.parametrize(
    "name", ["fl.records.checkpoint.write_atomic", "fl.pictures.style.write_atomic", "fl.record.write_atomic"]
)
def test_an_error_without_words_is_not_shown_as_none(name, command, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, None)

    monkeypatch.setattr(name, refuse)
    done = command("federated")
    assert "No space left on device" in done.err
    assert "None" not in done.err
