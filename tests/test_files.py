"""Files that are whole or absent, locks, and what someone else may have put where ours belong."""

from __future__ import annotations

import os
import secrets
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

from fl.errors import reason
from fl.records.files import clear_stale, locked, write_atomic
from fl.records.journal import Journal


@contextmanager
def within(seconds: float):
    """Fail instead of waiting for ever, as one who opens a FIFO does."""

    def late(*_):
        raise AssertionError(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def plant(kind: str, path: Path) -> Path:
    """A link to a file of someone's, or a FIFO, at `path`; returns that file."""
    thesis = path.with_name("thesis.tex")
    thesis.write_text("mine")
    if kind == "link":
        path.symlink_to(thesis)
    elif kind == "dangling":
        path.symlink_to(path.with_name("nowhere"))
    else:
        os.mkfifo(path)
    return thesis


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo"])
def test_a_lock_is_no_link_and_no_fifo(kind, tmp_path):
    thesis = plant(kind, tmp_path / ".lock")
    with within(5), pytest.raises(OSError, match="a link or a special file") as error, locked(tmp_path / ".lock"):
        pass
    assert error.value.filename == str(tmp_path / ".lock")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "thesis.tex"]
    assert thesis.read_text() == "mine"


def test_a_lock_file_of_someone_else_keeps_its_content(tmp_path):
    (tmp_path / ".lock").write_text("mine")
    with pytest.raises(OSError, match="not a lock of ours"), locked(tmp_path / ".lock"):
        pass
    assert (tmp_path / ".lock").read_text() == "mine"


def test_a_lock_left_by_a_killed_process_is_taken_over_and_removed(tmp_path):
    (tmp_path / ".lock").touch()
    with locked(tmp_path / ".lock", wait=False):
        with pytest.raises(BlockingIOError), locked(tmp_path / ".lock", wait=False):
            pass
        assert (tmp_path / ".lock").exists()
    assert not list(tmp_path.iterdir())


def test_temporary_names_cannot_be_guessed(tmp_path, monkeypatch):
    names, rename = [], os.replace

    def replace(old, new):
        names.append(Path(old).name)
        rename(old, new)

    monkeypatch.setattr(os, "replace", replace)
    for _ in range(3):
        write_atomic(tmp_path / "f", b"new")
    assert len(set(names)) == 3
    assert not any(str(os.getpid()) == name.split(".")[2] for name in names)


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo"])
def test_a_temporary_file_is_a_new_one(kind, tmp_path, monkeypatch):
    """Even for who guesses the name."""
    monkeypatch.setattr(secrets, "token_hex", lambda n: "guessed")
    thesis = plant(kind, tmp_path / ".f.guessed.tmp")
    with within(5), pytest.raises(FileExistsError):
        write_atomic(tmp_path / "f", b"new")
    assert thesis.read_text() == "mine"
    assert not (tmp_path / "f").exists()


def test_a_link_at_the_final_name_is_replaced_and_its_target_kept(tmp_path):
    thesis = plant("link", tmp_path / "f")
    write_atomic(tmp_path / "f", b"new")
    assert (thesis.read_text(), (tmp_path / "f").read_bytes()) == ("mine", b"new")
    assert not (tmp_path / "f").is_symlink()


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo"])
def test_a_journal_is_no_link_and_no_fifo(kind, tmp_path):
    thesis = plant(kind, tmp_path / "metrics.jsonl")
    with within(5), pytest.raises(OSError, match="a link or a special file"):
        Journal(tmp_path / "metrics.jsonl", b"")
    assert thesis.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_what_killed_processes_left_is_cleared_and_nothing_else(tmp_path):
    stale = [".model.pt.77.tmp", ".model.pt.0123456789abcdef.tmp"]
    others = [".a.tmp", ".model.txt.77.tmp", "model.pt.77.tmp"]
    for name in stale + others:
        (tmp_path / name).touch()
    clear_stale(tmp_path, ["model.pt", "a"])
    assert sorted(path.name for path in tmp_path.iterdir()) == others


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(28, None), "No space left on device"),
        (OSError("two\nlines"), "two lines"),
        (OSError(), "OSError"),
        (TimeoutError(), "TimeoutError"),
        (ValueError("why"), "why"),
    ],
)
def test_an_error_without_words_is_not_none(error, words):
    assert reason(error) == words


@pytest.mark.parametrize("name", [".lock", "config.json", "environment.json", "metrics.jsonl", "checkpoint.pt"])
def test_a_fifo_in_a_run_folder_is_one_line(name, command):
    done = command("federated", folder="a")
    (done.folder / name).unlink(missing_ok=True)
    os.mkfifo(done.folder / name)
    with within(5):
        again = command("federated", "--resume", folder="a")
    assert again.code == 4
    assert name in again.err
    assert len(again.err.splitlines()) == 1


def test_a_lock_that_is_a_link_stops_a_run_and_keeps_its_target(command, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / "a" / ".lock").symlink_to("../thesis.tex")
    done = command("federated", folder="a")
    assert done.code == 4
    assert "a/.lock: a link or a special file, where a plain file belongs; remove it" in done.err
    assert (tmp_path / "thesis.tex").read_text() == "mine"
