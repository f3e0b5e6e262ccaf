"""reproduce.py niid_bench: cells as flags, the best of several settings, and our final accuracy beside theirs."""

from __future__ import annotations

import json
import re

import pytest

import reproduce
from benchmarks.flower_labels import drawn
from fl.command_line import parse
from fl.published import reproduction, targets_of
from fl.published.cells import POINTS, Final, Target
from tests.conftest import ROOT
from tests.folders import starts_in

CELLS = targets_of("niid_bench")
FLAGS = ["--model", "logistic", "--optimizer", "sgd", "--global_epoch", "4"]
# The stand-in is at 90 % after four rounds with the rate 0.1 and seed 0, at 70 % with 0.3, and diverges with 5.
TOY = Final("toy/cell", FLAGS, 90.5, 4, [{"init_lr": "5"}, {"init_lr": "0.3"}, {"init_lr": "0.1"}])


def config_of(name, setting=0):
    return parse(CELLS[name].words(CELLS[name].settings[setting]), "federated", "")


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_is_a_command_line(name):
    dataset, _, algorithm = name.split("/")
    assert len(CELLS[name].settings) == (4 if algorithm == "fedprox" else 1)
    for i, mu in enumerate((0.001, 0.01, 0.1, 1)[: len(CELLS[name].settings)]):
        c = config_of(name, i)
        assert (c.dataset, c.algorithm, c.model, c.normalise) == (dataset, algorithm, "lenet", "unit")
        assert (c.num_clients, c.num_select_clients, c.global_epoch) == (10, 10, 50)
        assert (c.local_epoch, c.batch_size) == (10, 64)
        assert (c.optimizer, c.weight_decay, c.lr_decay, c.keep_optimizer_state) == ("sgd", 1e-5, 1, False)
        assert (c.init_lr, c.momentum) == ((0.1, 0) if algorithm == "scaffold" else (0.01, 0.9))
        assert c.augment == ("crop_flip" if dataset == "cifar10" else "none")
        assert algorithm != "fedprox" or c.proximal_mu == mu


def test_cells_are_those_of_the_table():
    assert len(CELLS) == 3 * (5 + 2) * 4
    c = config_of("mnist/dirichlet_0.5/fedavg")
    assert (c.partition, c.alpha, c.min_examples) == ("dirichlet_balanced", 0.5, 10)
    c = config_of("fashion_mnist/labels_3/fednova")
    assert (c.partition, c.labels_per_client) == ("labels", 3)
    assert config_of("cifar10/iid/scaffold").partition == "iid"
    theirs = {"mnist/labels_1/fedprox": 81.3, "fashion_mnist/labels_2/scaffold": 10.0, "cifar10/iid/fedavg": 71.7}
    assert {name: CELLS[name].accuracy for name in theirs} == theirs


@pytest.mark.parametrize("c", [2, 3])
def test_their_labels_are_those_that_their_code_draws(c):
    ours, theirs = (CELLS[f"mnist/labels_{c}{end}/fedprox"] for end in ("", "-theirs"))
    config = parse(theirs.words(theirs.settings[0]), "federated", "")
    assert (config.partition, config.label_sets) == ("label_sets", drawn(c))
    # As numpy.random.default_rng(42).choice gives them, which is what that code calls.
    assert drawn(c).startswith({2: "0,7;1,6;2,4;3,4;", 3: "0,6,7;1,4,8;0,2,6;0,2,3;"}[c])
    assert theirs._replace(name=ours.name, flags=ours.flags) == ours
    assert [one for one in theirs.flags if one not in ours.flags] == ["label_sets", "--label_sets", config.label_sets]


def test_the_band_is_three_times_what_equal_algorithms_differ_by():
    """FedNova is FedAvg where clients have equally many examples."""
    names = ("mnist", "fashion_mnist", "cifar10")
    apart = max(abs(CELLS[f"{one}/iid/fedavg"].accuracy - CELLS[f"{one}/iid/fednova"].accuracy) for one in names)
    assert apart == pytest.approx(0.6)
    assert 3 * apart <= POINTS < 4 * apart


@pytest.fixture
def toy(monkeypatch, tmp_path, capsys):
    """toy("--seeds 2", target): exit code, the cells of the row on the screen, and stderr; with stand-ins for runs."""
    monkeypatch.setattr("fl.sweeps.children.SCRIPT", ROOT / "tests" / "stand_in.py")
    monkeypatch.chdir(tmp_path)

    def run(words="--seeds 2", target=TOY):
        monkeypatch.setattr("reproduce.targets_of", lambda paper: {target.name: target})
        capsys.readouterr()
        code = reproduce.run(["niid_bench", "--jobs", "2", *words.split()])
        out, err = capsys.readouterr()
        rows = [line for line in out.splitlines() if line.startswith("toy/cell ")]
        return code, re.split(r"\s{2,}", rows[-1]) if rows else [], err

    return run


def starts(tmp_path):
    return starts_in(tmp_path / "runs/reproduce/niid_bench/toy/cell", workers=2)


def test_the_best_setting_is_found_and_run_with_every_seed(toy, tmp_path):
    code, row, err = toy("--seeds 2 --write_presets")
    assert (code, err) == (0, "")
    assert row == ["toy/cell", "90.5", "90.50 ± 0.71", "2", "4", "init_lr 0.1", "+0.00", "within"]
    runs = {"init_lr=5/seed0", "init_lr=0.3/seed0", "init_lr=0.1/seed0", "init_lr=0.1/seed1"}
    assert set(starts(tmp_path)) == runs
    place = tmp_path / "runs/reproduce/niid_bench"
    (told,) = json.loads((place / "table.json").read_text())
    assert told["ours"] == pytest.approx([90, 91])
    result = json.loads((place / "toy/cell/result.json").read_text())
    assert [one["accuracy"] for one in result["settings_tried"]] == [None, pytest.approx(70), pytest.approx(90)]
    preset = tmp_path / "configs/niid_bench/toy-cell.txt"
    told = "# niid_bench, toy/cell: 90.5 % there, 90.50 ± 0.71 here (n=2). Written by reproduce.py.\n"
    assert preset.read_text().startswith(told)
    config = parse([f"@{preset}"], "federated", "")
    assert (config.init_lr, config.global_epoch, config.model) == (0.1, 4, "logistic")
    assert toy()[1] == row
    assert set(starts(tmp_path).values()) == {1}  # nothing was run twice


@pytest.mark.parametrize(
    ("theirs", "points", "verdict", "code"),
    [
        (92.0, "-2.00", "within", 0),
        (92.1, "-2.10", "out", 1),
        (60.0, "+30.00", "within", 0),
        (12.0, "+78.00", "chance there only", 0),
        (12.1, "+77.90", "within", 0),
    ],
)
def test_the_band_ends_two_points_below_theirs(theirs, points, verdict, code, toy):
    found, row, _ = toy("--seeds 1", TOY._replace(accuracy=theirs))
    assert (found, row[-2:]) == (code, [points, verdict])


@pytest.mark.parametrize(("theirs", "verdict", "code"), [(90.5, "out", 1), (10.0, "chance in both", 0)])
def test_a_run_that_diverges_is_a_result(theirs, verdict, code, toy, tmp_path):
    target = TOY._replace(accuracy=theirs, settings=[{"init_lr": "5"}])
    for _ in range(2):
        found, row, err = toy("--seeds 2", target)
        assert (found, err) == (code, "")
        assert row[2:] == ["diverged at round 2", "2", "4", "init_lr 5", "-", verdict]
        assert set(starts(tmp_path).values()) == {1}


def test_one_seed_that_diverges_is_told_with_the_others():
    line = reproduction.KINDS[Final].read(
        TOY, {"setting": {"init_lr": "1"}, "rounds": [4, 2, 4], "accuracy": [90.0, None, 91.0]}
    )
    assert line.ours == "90.50 ± 0.71 (2 of 3), diverged at round 3"
    assert (line.points, line.verdict) == (None, "out")


def test_a_shortened_run_has_no_verdict_and_goes_on_later(toy, tmp_path):
    code, row, _ = toy("--seeds 1 --write_presets -- --global_epoch 2")
    assert code == 0
    assert row[2:] == ["50.00", "1", "2 of 4", "init_lr 0.1", "-", "no verdict"]
    assert not (tmp_path / "configs/niid_bench/toy-cell.txt").exists()
    assert toy("--seeds 1")[1][2:] == ["90.00", "1", "4", "init_lr 0.1", "-0.50", "within"]
    before = starts(tmp_path)
    assert before == {"init_lr=0.1/seed0": 2, "init_lr=0.3/seed0": 2, "init_lr=5/seed0": 1}
    assert toy("--seeds 1 -- --global_epoch 2")[1] == row  # of the first rounds of a longer run
    assert starts(tmp_path) == before
    (told,) = json.loads((tmp_path / "runs/reproduce/niid_bench/table.json").read_text())
    assert (told["rounds"], told["verdict"]) == ([4], "within")  # the files keep the longer result


@pytest.mark.parametrize("word", ["--init_lr=0.2", "--seed=7", "--dry_run", "--momentum=0.5", "@some.txt"])
def test_what_would_make_another_experiment_is_refused(word, toy, tmp_path):
    code, _, err = toy(f"-- {word}")
    assert code == 2
    takes = "after -- it takes --data_dir, --device and --global_epoch"
    assert err == f"reproduce.py: {word}: does not go with a published cell; {takes}\n"
    assert not starts(tmp_path)


NO_SEED, HALF = '{"setting": {}, "rounds": [], "accuracy": []}', '{"setting": {}, "rounds": [1], "accuracy": []}'


@pytest.mark.parametrize("damage", [HALF, NO_SEED, "{}", "[", '"x"', "null"])
def test_a_damaged_result_is_one_line(damage, toy, tmp_path):
    toy("--seeds 1")
    path = tmp_path / "runs/reproduce/niid_bench/toy/cell/result.json"
    path.write_text(damage)
    with pytest.raises(
        reproduction.RunFolderError, match=r"result\.json: cannot be read .* delete it and run the cell"
    ):
        reproduction.line_of(TOY, path)


def test_a_damaged_result_is_said_before_anything_is_trained(toy, tmp_path):
    path = tmp_path / "runs/reproduce/niid_bench/toy/cell/result.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"setting": {}, "rounds": [4], "accuracy": [900]}')  # per cent
    code, row, err = toy("--seeds 1")
    assert (code, row, starts(tmp_path)) == (4, [], {})
    assert err.endswith("delete it and run the cell again\n")
    assert len(err.splitlines()) == 1


def test_no_rounds_are_the_untrained_model(toy, tmp_path):
    code, row, _ = toy("--seeds 1 -- --global_epoch 0")
    assert (code, row[2], row[4], row[-1]) == (0, "10.00", "0 of 4", "no verdict")


def test_each_kind_of_cells_has_a_table_of_its_own(tmp_path):
    lines = reproduction.lines_of([Target("a", [], 9, 0.1), TOY], tmp_path)
    tables = reproduction.on_screen(lines).split("\n\n")
    assert len(tables) == 2
    assert [re.split(r"\s{2,}", table.split("\n")[1]) for table in tables] == [
        ["a", "9", "-", "0", "-", "-", "not run"],
        ["toy/cell", "90.5", "-", "0", "-", "-", "-", "not run"],
    ]


def test_the_list_names_the_cells(capsys):
    assert reproduce.run(["niid_bench", "--list", "--cell", "mnist/*/fedavg"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "mnist/dirichlet_0.5/fedavg  98.9 %"
