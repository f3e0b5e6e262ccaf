"""reproduce.py: cells as flags, the search for a rate, and ours beside theirs."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest

import reproduce
from fl.command_line import parse
from fl.published import targets_of
from fl.published.cells import BAND, Target
from fl.published.rate_search import Score, best_of, rate_of, to_try
from fl.published.reproduced_rounds import read, search
from fl.published.trials import Outcome, processes
from tests.conftest import ROOT
from tests.folders import starts_in

TARGETS = targets_of("mcmahan2017")
TO_85 = ["--model", "logistic", "--optimizer", "sgd", "--target_accuracy", "0.85", "--stop_at_target"]
TOY = Target("toy/cell", TO_85, 3.5, 0.01)


@pytest.mark.parametrize("name", TARGETS)
def test_every_cell_is_a_command_line(name):
    target = TARGETS[name]
    config = parse(target.words(0.1), "federated", "")
    assert (config.num_clients, config.init_lr, config.stop_at_target) == (100, 0.1, True)
    assert config.global_epoch == math.ceil(BAND * target.rounds)


def test_cells_are_those_of_the_tables():
    """One of each table, written out from the paper."""
    c = parse(TARGETS["table1/2nn/iid/B10/C0.1"].words(0.1), "federated", "")
    assert TARGETS["table1/2nn/iid/B10/C0.1"].rounds == 87
    assert (c.model, c.partition, c.num_select_clients, c.local_epoch, c.batch_size) == ("2nn", "iid", 10, 1, 10)
    assert c.target_accuracy == (0.97,)
    c = parse(TARGETS["table1/cnn/noniid/Binf/C0"].words(0.1), "federated", "")
    assert TARGETS["table1/cnn/noniid/Binf/C0"].rounds == 1181
    assert (c.model, c.partition, c.shards_per_client, c.num_select_clients) == ("cnn", "shards", 2, 1)
    assert (c.local_epoch, c.batch_size, c.target_accuracy) == (5, 0, (0.99,))
    c = parse(TARGETS["table2/cnn/noniid/E20B50"].words(0.1), "federated", "")
    assert TARGETS["table2/cnn/noniid/E20B50"].rounds == 426
    assert (c.local_epoch, c.batch_size, c.num_select_clients) == (20, 50, 10)
    c = parse(TARGETS["table3/fedavg/0.82"].words(0.1), "federated", "")
    assert TARGETS["table3/fedavg/0.82"].rounds == 630
    assert (c.dataset, c.local_epoch, c.batch_size, c.lr_decay) == ("cifar10", 5, 50, 0.99)
    assert "table1/2nn/iid/Binf/C0.5" not in TARGETS  # the paper has no number there
    assert len(TARGETS) == 3 * 20 - 9 + 9 * 2 + 5


def test_a_cell_with_other_pixels_is_otherwise_the_same():
    as_it_is, centred = (TARGETS[f"table1/{name}/noniid/B10/C0.1"] for name in ("2nn", "2nn-centred"))
    assert (centred.rounds, centred.flags) == (as_it_is.rounds, [*as_it_is.flags, "--normalise", "centred"])
    assert parse(as_it_is.words(0.1), "federated", "").normalise == "standard"


def searched(score):
    """The scores of a whole search, one rate of which gives `score(rate)`."""
    scores = {}
    while indices := to_try(scores):
        assert not set(indices) & set(scores)
        scores |= {i: score(rate_of(0.1, i)) for i in indices}
    return scores


@pytest.mark.parametrize("best", [0.001, 0.0316, 0.05, 0.1, 0.147, 0.3, 20.0])
def test_the_search_ends_strictly_around_the_best_rate(best):
    scores = searched(lambda rate: Score(10 + 50 * math.log(rate / best) ** 2, 0.97))
    found = best_of(scores)
    assert {found - 1, found + 1} <= set(scores)
    assert abs(math.log10(rate_of(0.1, found) / best)) < 1 / 6
    assert len(scores) < 22


def test_what_reaches_no_target_is_told_apart_by_accuracy_and_is_worse_than_what_does():
    scores = searched(lambda rate: Score(None, 0.9 - abs(math.log10(rate / 0.5))))
    assert rate_of(0.1, best_of(scores)) == pytest.approx(0.464)
    assert best_of({0: Score(None, 0.999), 1: Score(80.0, 0.5), 2: Score(79.9, 0.4)}) == 2
    assert best_of({-1: Score(None, 0.1), 0: Score(None, 0.1), 1: Score(None, 0.1)}) == 0


def test_a_search_that_finds_nothing_ends():
    assert len(searched(lambda rate: Score(None, 1 - rate))) < 30


def test_no_rate_runs_much_longer_than_the_first_one_that_gets_there():
    needed, asked = {0.1: 17, 0.147: 16}, {}  # rounds to the target; rounds that each rate was asked for, by rate

    def run(trials):
        found = []
        for trial in trials:
            config = parse(trial.words, "federated", "")
            asked.setdefault(config.init_lr, []).append(config.global_epoch)
            T = min(n := needed.get(config.init_lr, 99), config.global_epoch)
            found.append(Outcome([{"round": t, "test_accuracy": 0.99 * (t == n)} for t in range(T + 1)], False))
        return found

    target = TARGETS["table2/cnn/iid/E5B10"]  # at most 25 rounds
    result = search(target, 1, run)
    assert (result["rate"], result["rounds"]) == (0.147, [16])
    assert asked[0.0464] == asked[0.215] == [4, 7, 13, 16, 19]


def test_rates_have_three_digits_and_steps_of_a_sixth():
    rates = [rate_of(0.1, i) for i in range(-12, 13)]
    assert rates[12] == 0.1
    assert rates[18] == 1.0
    assert all(b / a == pytest.approx(10 ** (1 / 6), rel=0.01) for a, b in pairwise(rates))


@pytest.fixture
def toy(monkeypatch, tmp_path, capsys):
    """toy("--seeds 2", target): exit code, stdout and stderr of a reproduction with stand-ins."""
    monkeypatch.setattr("fl.sweeps.children.SCRIPT", ROOT / "tests" / "stand_in.py")
    monkeypatch.chdir(tmp_path)

    def run(words="--seeds 2", target=TOY):
        other = Target("toy/other", target.flags, 9, 0.1)
        monkeypatch.setattr("reproduce.targets_of", lambda paper: {one.name: one for one in (target, other)})
        capsys.readouterr()
        code = reproduce.run(["mcmahan2017", "--cell", "toy/c*", "--jobs", "2", *words.split()])
        return code, *capsys.readouterr()

    return run


def starts(tmp_path):
    return starts_in(tmp_path / "runs/reproduce/mcmahan2017/toy/cell", workers=2)


def test_the_best_rate_is_found_and_run_with_every_seed(toy, tmp_path):
    code, out, err = toy("--seeds 2 --write_presets")
    assert (code, err) == (0, "")
    row = [line for line in out.splitlines() if line.startswith("toy/cell ")][-1]
    # The stand-in is at 0.1 + 0.2 t after t rounds with the rate 0.1 and seed 0, and so reaches 0.85 after 3.75.
    assert row.split() == ["toy/cell", "3.5", "3.7", "±", "0.0", "2", "0.1", "1.06", "within"]
    rates = ("0.01", "0.00464", "0.0215", "0.0464", "0.1", "0.215", "0.0681", "0.147")
    assert set(starts(tmp_path)) == {"lr0.1/seed1", *(f"lr{rate}/seed0" for rate in rates)}
    place = tmp_path / "runs/reproduce/mcmahan2017"
    told = {one["cell"]: one for one in json.loads((place / "table.json").read_text())}
    assert told["toy/cell"]["verdict"] == "within"
    assert told["toy/other"] == {
        "cell": "toy/other", "theirs": 9, "ours": [], "rate": None, "diverged": 0, "ratio": None, "verdict": "not run",
    }  # fmt: skip
    assert "| toy/other | 9 | - | 0 | - | - | not run |" in (place / "table.md").read_text()
    preset = tmp_path / "configs/mcmahan2017/toy-cell.txt"
    config = parse([f"@{preset}"], "federated", "")
    assert (config.init_lr, config.global_epoch, config.target_accuracy) == (0.1, 5, (0.85,))
    before = starts(tmp_path)
    again = toy()
    assert row in again[1].splitlines()
    assert starts(tmp_path) == before  # nothing was run twice


def test_fewer_seeds_leave_the_result_as_it_is_and_a_run_without_a_summary_is_finished(toy, tmp_path):
    toy("--seeds 2")
    summary = tmp_path / "runs/reproduce/mcmahan2017/toy/cell/lr0.1/seed0/summary.json"
    summary.unlink()  # as if the run had been killed before it wrote it
    result = tmp_path / "runs/reproduce/mcmahan2017/toy/cell/result.json"
    before = result.read_bytes()
    _, out, _ = toy("--seeds 1")
    row = [line for line in out.splitlines() if line.startswith("toy/cell ")][-1]
    assert row.split() == ["toy/cell", "3.5", "3.7", "1", "0.1", "1.07", "within"]
    assert "result.json keeps the result of an earlier call, which had more rounds or more seeds" in out
    assert result.read_bytes() == before
    assert summary.exists()


def test_seeds_that_diverge_are_told_apart_from_those_that_are_late():
    line = read(TOY, {"rate": 0.1, "rounds": [3.5, None, None], "diverged": [False, True, False]})
    assert line.ours == "3.5 (1 of 3), 1 diverged"
    assert read(TOY, {"rate": 0.1, "rounds": [None], "diverged": [True]}).ours == "not in 5, 1 diverged"


@pytest.mark.parametrize(("rate", "rounds"), [(-1, [5]), (0.1, [-5]), (0.1, [])])
def test_a_result_that_cannot_be_is_none(rate, rounds):
    assert read(TOY, {"rate": 0.1, "rounds": [5, None]}).rounds == [5, None]
    with pytest.raises(ValueError, match=r"that cannot be|no seeds"):
        read(TOY, {"rate": rate, "rounds": rounds})


@pytest.mark.parametrize(
    ("runs", "jobs", "expected"),
    [(0, 2, []), (2, 2, [1, 1]), (3, 2, [1, 1, 2]), (1, 4, [4]), (3, 16, [5, 5, 5]), (5, 3, [1, 1, 1, 1, 1])],
)
def test_runs_that_are_fewer_than_the_cores_share_them(runs, jobs, expected):
    assert processes(runs, jobs) == expected


@pytest.mark.parametrize(("clients", "workers"), [("4", "2"), ("1", "1")])
def test_the_last_rate_of_three_has_both_cores_if_its_clients_can_use_them(clients, workers, toy, tmp_path):
    toy("--seeds 1 -- --device cpu", TOY._replace(flags=[*TO_85, "--num_select_clients", clients]))
    folder = tmp_path / "runs/reproduce/mcmahan2017/toy/cell"
    first = {path.parent.parent.name: path.read_text().split()[1] for path in folder.glob("*/*/starts")}
    assert (first["lr0.00464"], first["lr0.01"], first["lr0.0215"]) == ("1", "1", workers)


def test_a_rate_that_cannot_win_any_more_is_cut_short(toy, tmp_path):
    toy()
    folder = tmp_path / "runs/reproduce/mcmahan2017/toy/cell"
    rounds = {path.parent.name: len(path.joinpath("metrics.jsonl").read_text().splitlines()) - 1
              for path in folder.glob("*/seed0")}  # fmt: skip
    assert rounds["lr0.00464"] == 5  # nothing had reached the target yet, and 1.25 x 3.5 rounds are allowed
    assert rounds["lr0.215"] == 4  # the best needed 3.75


def test_rates_that_are_tried_together_get_few_rounds_first(toy, tmp_path):
    toy("--seeds 1", TOY._replace(rounds=40, start=0.1))
    folder = tmp_path / "runs/reproduce/mcmahan2017/toy/cell"
    assert len((folder / "lr0.0464/seed0/metrics.jsonl").read_text().splitlines()) - 1 == 7  # of 50


def test_a_cell_out_of_its_band_is_exit_code_1(toy):
    code, out, _ = toy(target=TOY._replace(rounds=2))
    assert code == 1
    row = [line for line in out.splitlines() if line.startswith("toy/cell ")][-1]
    assert row.split()[-2:] == ["-", "out"]
    assert row.split()[2:5] == ["not", "in", "3"]


def test_flags_after_two_dashes_go_to_every_run(toy, tmp_path):
    toy("--seeds 1 -- --data_dir elsewhere")
    found = list(tmp_path.glob("runs/reproduce/mcmahan2017/toy/cell/*/*/config.json"))
    assert len(found) >= 8
    assert {json.loads(path.read_text())["data_dir"] for path in found} == {"elsewhere"}


def test_a_spent_budget_is_no_result(toy):
    code, out, err = toy("--budget 0.0001")
    assert code == 0
    assert err == "--budget 0.0001: is spent; give the command again to go on\n"
    assert [line for line in out.splitlines() if line.startswith("toy/cell ")][-1].endswith("not run")


def test_the_list_names_the_cells(capsys):
    assert reproduce.run(["mcmahan2017", "--list", "--cell", "table2/cnn/iid/*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert "table2/cnn/iid/E5B10  20 rounds" in lines


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("mcmahan2017 --cell table9/*", "--cell table9/*: no such cell; --list names them all"),
        ("mcmahan2018", "paper: invalid choice: 'mcmahan2018'"),
        ("mcmahan2017 --seeds none", "--seeds none: expected an integer"),
        ("mcmahan2017 --budget 0", "--budget 0: expected minutes in (0, 1e+06)"),
        ("mcmahan2017 --budget soon", "--budget soon: expected minutes in (0, 1e+06)"),
        ("mcmahan2017 --cell table1/2nn/iid/B10/C0 -- -h", "-h: does not go with a published cell"),
        ("mcmahan2017 --cell figure1 --list -- --seed 1", "--seed: does not go with a published cell"),
        ("mcmahan2017 --cell figure1 -- --seed 1", "--seed: does not go with a published cell; after -- it takes --d"),
        (
            "mcmahan2017 --cell table2/cnn/iid/E5B10 -- --global_epoch 10",
            "--global_epoch: does not go with a published cell; after -- it takes --data_dir and --device",
        ),
    ],
)
def test_wrong_words_are_one_line(words, said, capsys):
    assert reproduce.run(words.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"reproduce.py: {said}")
    assert len(err.splitlines()) == 1
