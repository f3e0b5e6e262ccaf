"""What environment.json says, of the beginning of a run and of its resumptions."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import fl.environment
from fl.environment import git_commit

pytestmark = [
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]


def git(folder: Path, *words: str) -> str:
    names = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *names, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def repository(folder: Path) -> str:
    """Make one with a commit; returns the commit."""
    folder.mkdir()
    git(folder, "init")
    git(folder, "commit", "--allow-empty", "-m", "other")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A repository that git_commit takes for the one of the code."""
    folder = tmp_path / "checkout"
    (repository(folder), (folder / "fl").mkdir())
    monkeypatch.setattr(fl.environment, "__file__", str(folder / "fl" / "environment.py"))
    return folder


def test_the_commit_is_that_of_the_code_whatever_git_says_in_the_environment(checkout, tmp_path, monkeypatch):
    """git sets such variables, for example GIT_DIR, for the commands that its hooks run."""
    other = repository(tmp_path / "other")
    git(checkout, "commit", "--allow-empty", "-m", "another")
    ours = git(checkout, "rev-parse", "HEAD")
    for name, value in (
        ("GIT_DIR", tmp_path / "other/.git"), ("GIT_WORK_TREE", tmp_path / "other"),
        ("GIT_INDEX_FILE", tmp_path / "nowhere"), ("GIT_OBJECT_DIRECTORY", tmp_path / "other/.git/objects"),
        ("GIT_NAMESPACE", "x"), ("GIT_CEILING_DIRECTORIES", tmp_path), ("GIT_CONFIG_COUNT", "x"),
    ):  # fmt: skip
        monkeypatch.setenv(name, str(value))
        assert git_commit() == ours != other


def test_changes_are_told(checkout):
    (checkout / "file").write_text("one")
    git(checkout, "add", "file")
    assert git_commit() == git(checkout, "rev-parse", "HEAD") + "+changes"


def test_outside_a_checkout_there_is_no_commit_not_even_that_of_a_folder_above(checkout, tmp_path):
    shutil.rmtree(checkout / ".git")
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "above")
    assert git_commit() is None
    (checkout / ".git").mkdir()  # damaged
    assert git_commit() is None


def resumed_at(command, monkeypatch, *commits: str | None):
    """environment.json of a run of which each part ran at another commit, and what the last one printed to stderr."""
    for number, commit in enumerate(commits):
        monkeypatch.setattr(fl.environment, "git_commit", lambda commit=commit: commit)
        done = command("federated", f"{'--resume' if number else ''} --global_epoch {2 + number}", folder="a")
        assert done.code == 0
    return json.loads((done.folder / "environment.json").read_text()), done.err


def test_a_resumed_run_keeps_the_commit_that_it_began_with_and_adds_the_others(command, monkeypatch):
    environment, err = resumed_at(command, monkeypatch, "first", "first", "second", "third")
    assert environment["git_commit"] == "first"
    assert environment["resumed_at_round"] == [2, 3, 4]
    assert environment["resumed_with"] == [{}, {"git_commit": "second"}, {"git_commit": "third"}]
    assert err == ("warning: bits may differ, as this changed since the run began: git_commit first, now third\n")


@pytest.mark.parametrize("first", ["same", None])
def test_nothing_is_said_of_the_same_commit_or_of_one_that_was_not_known(first, command, monkeypatch):
    environment, err = resumed_at(command, monkeypatch, first, "same")
    assert (environment["git_commit"], err) == (first, "")


def test_a_run_that_starts_again_for_want_of_a_checkpoint_began_now(command, monkeypatch):
    monkeypatch.setattr(fl.environment, "git_commit", lambda: "first")
    done = command("federated", folder="a")
    (done.folder / "checkpoint.pt").unlink()
    monkeypatch.setattr(fl.environment, "git_commit", lambda: "second")
    assert command("federated", "--resume", folder="a").err == ""
    environment = json.loads((done.folder / "environment.json").read_text())
    assert (environment["git_commit"], environment["resumed_at_round"]) == ("second", [])


def test_what_else_changed_is_kept_beside_what_it_was(command, monkeypatch):
    done = command("federated", folder="a")
    path = done.folder / "environment.json"
    before = json.loads(path.read_text()) | {"torch": "1.0", "python": "3.0", "resumed_at_round": [1]}
    del before["resumed_with"]  # as an earlier version left it
    path.write_text(json.dumps(before))
    again = command("federated", "--resume --global_epoch 4", folder="a")
    after = json.loads(path.read_text())
    assert (after["torch"], after["python"], after["resumed_at_round"]) == ("1.0", "3.0", [1, 3])
    assert after["resumed_with"][0] == {}
    assert after["resumed_with"][1].keys() == {"torch", "python"}
    assert again.err.startswith("warning: bits may differ, as this changed since the run began: torch 1.0, now ")
    assert len(again.err.splitlines()) == 1
