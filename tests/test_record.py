"""Which folders a run may take: empty ones and its own, and those as they are when it holds the lock."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

import fl.record
import run_baseline
import run_federated
from fl.records.reading import OURS
from tests.conftest import SMALL


def test_only_a_folder_with_a_config_of_ours_is_a_run(command, tmp_path):
    """A model of someone's is not overwritten because it has the name that we would give it."""
    for name in ("model.pt", "checkpoint.pt", "metrics.jsonl", "summary.json", "curves.png", ".model.pt.77.tmp"):
        folder = tmp_path / name.strip(".")
        folder.mkdir()
        (folder / name).write_text("mine")
        for script in (run_federated, run_baseline):
            for flag in ([], ["--resume"], ["--overwrite"]):
                assert script.run([*SMALL.split(), *flag, "--run_dir", str(folder)]) == 4, (name, flag)
        assert [path.name for path in folder.iterdir()] == [name]
        assert (folder / name).read_text() == "mine"


@pytest.mark.parametrize("flag", ["--resume", "--overwrite", ""])
def test_a_run_that_was_killed_before_it_had_a_config_leaves_a_free_folder(flag, tmp_path):
    (tmp_path / "a").mkdir()
    for name in (".lock", ".config.json.0123456789abcdef.tmp"):
        (tmp_path / "a" / name).touch()
    assert run_federated.run([*SMALL.split(), *flag.split(), "--run_dir", str(tmp_path / "a")]) == 0
    assert not list((tmp_path / "a").glob(".*"))


@pytest.mark.parametrize("number", [1, 4, 8])
def test_an_overwrite_that_is_stopped_leaves_a_run(number, command, monkeypatch):
    """Without its checkpoint, so that nothing goes on from the old run under the new one's flags."""
    command("federated", "--seed 5", folder="a")
    removed, unlink = [], Path.unlink

    def stop(path, missing_ok=False):
        if path.name in OURS:
            removed.append(path.name)
        if len(removed) == number:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stop)
        done = command("federated", "--overwrite", folder="a")
    assert done.code == 130
    assert removed[0] == "checkpoint.pt"
    assert (done.folder / "config.json").exists()
    assert command("federated", "--resume", folder="a").code == 0
    assert command("federated", "--overwrite", folder="a").code == 0


def test_a_run_that_began_while_this_one_waited_for_the_lock_is_kept(command, tmp_path, monkeypatch):
    """Both found the folder empty; the other one was done when this one got the lock."""
    done = command("federated", "--seed 5", folder="other")

    def locked(path, wait):
        shutil.copytree(done.folder, path.parent, dirs_exist_ok=True)
        return contextlib.nullcontext()

    monkeypatch.setattr(fl.record, "locked", locked)
    assert command("federated", folder="a").code == 4
    assert done._replace(folder=tmp_path / "a").sha256 == done.sha256
