"""Names by path: all that a run is made of from one file outside the package, and what is said when it is wrong."""

from __future__ import annotations

import json
import re

import pytest

import compare
import run_baseline
import run_federated
from fl.config import Config
from fl.errors import FlagError
from fl.names import entry_of, is_own, named, own_files

ALL = (
    "--model own.py:net --dataset own.py:patterns --partition own.py:dealt --algorithm own.py:prox "
    "--aggregate own.py:middle --transform own.py:half"
)
TWINS = (
    "--model 2nn --dataset tiny --partition shards --algorithm fedprox --aggregate median "
    "--attack scaled --attackers 1 --attack_scale 0.5"
)
SHORT = "--global_epoch 2 --num_select_clients 3 --quiet"


@pytest.mark.parametrize("engine", ["--engine sequential", "--engine stacked", "--engine distributed --workers 2"])
def test_a_file_of_ones_own_trains_as_the_twins_in_the_package(engine, own, command):
    flags = f"{SHORT} --shards_per_client 3 --proximal_mu 0.3"
    ours = command("federated", f"{flags} {TWINS} {engine.replace('distributed --workers 2', 'stacked')}")
    theirs = command("federated", f"{flags} {ALL} {engine}")
    assert (ours.code, theirs.code) == (0, 0), theirs.err
    assert theirs.sha256 == ours.sha256
    assert [one["test_loss"] for one in theirs.records] == [one["test_loss"] for one in ours.records]
    recorded = json.loads((theirs.folder / "config.json").read_text())
    assert (recorded["model"], recorded["transform"]) == ("own.py:net", ["own.py:half"])


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("--algorithm own.py:heavy_ball --server_lr 0.5 --server_momentum 0.3",
         "--algorithm fedavgm --server_lr 0.5 --server_momentum 0.3"),
        ("--transform own.py:by_flags --attack scaled --attackers 1 --attack_scale 0.5",
         "--transform own.py:half --transform own.py:half"),
        ("--transform own.py:by_flags", ""),
        ("--aggregate own.py:Plain", ""),
    ],
)  # fmt: skip
def test_one_part_of_ones_own(theirs, ours, own, command):
    theirs, ours = command("federated", f"{SHORT} {theirs}"), command("federated", f"{SHORT} {ours}")
    assert (theirs.code, ours.code) == (0, 0), theirs.err
    assert theirs.sha256 == ours.sha256


def test_the_baseline_takes_them_too_and_leaves_out_what_it_does_not_read(own, command):
    federated = command("federated", f"{SHORT} {ALL}")
    matched = command("baseline", f"--match {federated.folder}")
    plain = command("baseline", "--model own.py:Net --dataset own.py:patterns --partition own.py:dealt --epoch 1")
    assert (matched.code, plain.code) == (0, 0)
    assert matched.records[0]["test_loss"] == federated.records[0]["test_loss"]
    assert json.loads((plain.folder / "environment.json").read_text())["own_files"].keys() == {"own.py"}


def test_a_file_is_run_once_and_finds_its_neighbours(own, tmp_path, capsys):
    (tmp_path / "neighbour_of_own.py").write_text("print('neighbour')\nWIDTH = 3")
    own.write_text("import sys\nfrom neighbour_of_own import WIDTH\nprint(__name__ in sys.modules)\nwidth = WIDTH")
    assert named("model", "own.py:width") == 3
    assert named("aggregate", f"{tmp_path}/own.py:WIDTH") == 3
    assert capsys.readouterr().out == "neighbour\nTrue\n"
    own.write_text("width = 4")
    assert named("model", "own.py:width") == 4


def test_names_come_from_the_table_first(own):
    assert named("model", "2nn").__name__ == "two_nn"
    assert entry_of("algorithm", "scaffold").needs["optimizer"] == "sgd"
    assert not entry_of("algorithm", "own.py:prox").needs
    assert is_own("model", "own.py:net")
    assert not is_own("model", "2nn")


@pytest.fixture
def finished(own, command, monkeypatch):
    monkeypatch.setattr("fl.pictures.comparison.save_comparison", lambda path, *_: path.write_text("drawn"))
    done = command("federated", f"{SHORT} {ALL}", folder="done")
    assert done.code == 0
    return done


def change(folder, **flags):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | flags))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (None, ": there is no file own.py"),
        ({"model": "vit"}, "--model vit: expected one of fast_cnn"),
        ({"algorithm": "fedbabu"}, "--algorithm fedbabu: expected one of fedavg"),
        ({"transform": ["clip"]}, "--transform clip: expected FILE.py:NAME"),
        ({"attack": "backdoor"}, "--attack backdoor: expected one of label_flip"),
    ],
)
def test_a_name_that_is_gone_or_of_a_later_version(flags, said, finished, own, command, capsys):
    """Whoever compares needs no code; whoever goes on with the run does."""
    if flags:
        change(finished.folder, **flags)
    else:
        own.unlink()
    assert compare.run([str(finished.folder), "--out", "c.png"]) == 0
    capsys.readouterr()
    for script, words in ((run_federated, "--resume --run_dir"), (run_baseline, "--run_dir new --match")):
        if script is run_federated or (flags or {"model": 0}).keys() <= {"model"}:
            assert script.run([*words.split(), str(finished.folder)]) == 4
            (line,) = capsys.readouterr().err.splitlines()
            assert f"{finished.folder}/config.json: --" in line
            assert said in line


def test_a_baseline_resumes_without_what_it_does_not_read(own, command):
    command("baseline", "--partition own.py:dealt", folder="base")
    own.unlink()
    assert command("baseline", "--resume --epoch 4", folder="base").code == 0


@pytest.mark.parametrize("value", ["", "a\nb", "x" * 5000, 3, ["a"]])
def test_a_recorded_name_must_look_like_one(value, finished, capsys):
    change(finished.folder, model=value)
    assert compare.run([str(finished.folder), "--out", "c.png"]) == 4
    assert "--model " in capsys.readouterr().err


def test_what_another_name_does_not_read_is_no_part_of_the_experiment(finished, command, capsys):
    """Runs that differ only in flags that nothing read are repetitions of one experiment."""
    for seed, folder in enumerate("ab", start=1):
        command("federated", f"{SHORT} {ALL} --seed {seed}", folder=folder)
        change(finished.folder.parent / folder, workers=0, epoch=seed, attackers=0.1 * seed)
    assert compare.run([*(str(finished.folder.parent / name) for name in ("done", "a", "b")), "--out", "c.png"]) == 0
    assert re.search(r"^own.py:prox +3 ", capsys.readouterr().out, re.MULTILINE)


def test_a_changed_file_is_told_when_a_run_is_resumed(finished, own, command):
    def recorded():
        return json.loads((finished.folder / "environment.json").read_text())

    before = own_files(Config(model="own.py:net", transform=("own.py:half", "own.py:half")))
    assert recorded()["own_files"] == before
    assert re.fullmatch("[0-9a-f]{64}", before["own.py"])
    same = command("federated", "--resume --global_epoch 3", folder="done")
    assert (same.code, same.err) == (0, "")
    own.write_text(own.read_text() + "# changed\n")
    other = command("federated", "--resume --global_epoch 4", folder="done")
    assert other.code == 0
    assert "warning: bits may differ, as this changed since the run began: own_files" in other.err
    assert recorded()["resumed_with"][-1]["own_files"] != before


def test_no_torch_is_needed_to_refuse_a_path(own, monkeypatch):
    from fl.command_line import parse

    with pytest.raises(FlagError, match=re.escape("--model nowhere.py:x: there is no file nowhere.py")):
        parse(["--model", "nowhere.py:x"], "federated", "")
    own.write_text("raise AssertionError")  # it is not run
    assert parse(["--model", "own.py:x"], "federated", "").model == "own.py:x"
