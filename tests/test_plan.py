"""--match: a baseline is as long as the run that it matched when it began."""

from __future__ import annotations

import json
import shutil

import pytest

FLAGS = "--partition quantity --global_epoch 4 --init_lr 0.05"


@pytest.fixture
def matched(command):
    """A federated run in the folder "fed", and the baseline in "whole" that nothing disturbed."""
    fed = command("federated", FLAGS, folder="fed")
    return fed, command("baseline", f"--match {fed.folder}", folder="whole")


def interrupted(command, fed, monkeypatch, after=2):
    """The baseline in the folder "a", which was interrupted in the round after `after`."""
    import fl.recorded

    def interrupt(x, done):
        if done.now.t == after + 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fl.recorded, "check_finite", interrupt)
        assert command("baseline", f"--match {fed.folder}", folder="a").code == 130


@pytest.mark.parametrize("other", ["--seed 1", "--global_epoch 3", "--seed 1 --global_epoch 9", None])
def test_a_resumed_baseline_keeps_the_lengths_that_it_began_with(other, command, matched, monkeypatch):
    """Whatever has become of the run that it matches: replaced by another, by a shorter one, or deleted."""
    fed, whole = matched
    interrupted(command, fed, monkeypatch)
    if other:
        assert command("federated", f"{FLAGS} {other} --overwrite", folder="fed").code == 0
    else:
        shutil.rmtree(fed.folder)
    done = command("baseline", "--resume", folder="a")
    assert (done.code, done.sha256, done.untimed) == (0, whole.sha256, whole.untimed)
    if other and "--seed" in other:
        assert done.err == (
            f"warning: --match {fed.folder}: holds another run than when this one began; "
            "continuing with the 4 rounds that were noted at that time\n"
        )
    else:
        assert done.err == ""


def test_a_baseline_resumed_after_its_run_went_on_goes_on_too(command, matched):
    fed, _ = matched
    assert command("federated", "--resume --global_epoch 6", folder="fed").code == 0
    long = command("baseline", f"--match {fed.folder}", folder="long")
    rest = command("baseline", "--resume", folder="whole")
    assert (rest.code, rest.err) == (0, "")
    assert (rest.sha256, rest.untimed) == (long.sha256, long.untimed)
    assert len(rest.records) == 7
    # And these rounds are kept in their turn.
    assert command("federated", f"{FLAGS} --seed 1 --overwrite", folder="fed").code == 0
    assert command("baseline", "--resume", folder="whole").sha256 == long.sha256


def test_a_baseline_that_noted_no_lengths_takes_those_of_the_run(command, matched, monkeypatch):
    """As one of an earlier version."""
    fed, whole = matched
    interrupted(command, fed, monkeypatch)
    path = fed.folder.with_name("a") / "environment.json"
    environment = json.loads(path.read_text())
    assert environment.pop("matched_examples") == [record["examples"] for record in fed.records[1:]]
    path.write_text(json.dumps(environment))
    assert command("baseline", "--resume", folder="a").sha256 == whole.sha256
    assert "matched_examples" in json.loads(path.read_text())


@pytest.mark.parametrize("kept", [3, ["x"], [-1], [1.5], [True], {}])
def test_lengths_that_no_run_noted_are_one_line(kept, command, matched):
    path = matched[1].folder / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"matched_examples": kept}))
    before = {path.name: path.read_bytes() for path in path.parent.iterdir()}
    done = command("baseline", "--resume", folder="whole")
    assert done.code == 4
    assert "environment.json: corrupt: matched_examples" in done.err
    assert len(done.err.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in path.parent.iterdir()} == before


def test_matching_an_unfinished_run_is_said(command, matched):
    fed, whole = matched
    (fed.folder / "summary.json").unlink()
    for flags in ("", "--dry_run"):
        done = command("baseline", f"--match {fed.folder} {flags}", folder=f"b{flags}")
        assert done.code == 0
        assert done.err == f"warning: --match {fed.folder}: is not finished; its 4 rounds so far count\n"
    assert whole.err == ""
