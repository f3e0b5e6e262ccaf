"""A sweep given again: which runs are there already, which go on, and which folders hold something else."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import compare
import sweep
from fl.check import with_clients
from fl.command_line import parse
from fl.errors import FlagError
from fl.records.reading import fell_below
from fl.sweeps.children import alone
from fl.sweeps.sweep import check_same, check_stop
from tests.conftest import SWEPT as FLAGS
from tests.folders import record, starts_in


def starts(tmp_path):
    return starts_in(tmp_path / "out")


def test_finished_runs_are_not_started_again_and_the_grid_can_grow(quick, tmp_path):
    first = quick("--grid init_lr=0.1,0.2 --seeds 2")
    table = first[1][first[1].index("\nrun ") :]
    again = quick("--grid init_lr=0.1,0.2 --seeds 2")
    assert again[1].startswith("4 runs: 2 cells, seeds 0, 1; 4 done, 0 rounds to go")
    assert again[1][again[1].index("\nrun ") :] == table
    assert set(starts(tmp_path).values()) == {1}
    _, out, _ = quick("--grid init_lr=0.1,0.2,0.3 --seeds 3")
    assert "9 runs: 3 cells, seeds 0 to 2; 4 done" in out
    assert set(starts(tmp_path).values()) == {1}
    assert len(starts(tmp_path)) == 9
    _, out, _ = quick("--grid init_lr=0.1", f"{FLAGS} --global_epoch 6")  # more rounds of the same
    assert "1 run: 1 cell, seed 0; 0 done, 2 rounds to go" in out
    assert starts(tmp_path)["init_lr=0.1/seed0"] == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [(f"{FLAGS} --batch_size 7", "--batch_size 7: the run in "), ("--optimizer sgd --model logistic --global_epoch 4",
     "--target_accuracy: is nothing by default, and the run in "),
     (f"{FLAGS} --global_epoch 3", "--global_epoch 3: the run in ")],
)  # fmt: skip
def test_a_folder_with_other_flags_is_refused(flags, said, quick, tmp_path):
    quick("--grid init_lr=0.1")
    code, out, err = quick("--grid init_lr=0.1,0.2", flags)
    assert (code, out) == (2, "")
    assert err.startswith(f"sweep.py: {said}")
    assert starts(tmp_path) == {"init_lr=0.1/seed0": 1}


@pytest.mark.parametrize(
    ("grown", "said"),
    [
        ("--target_accuracy 0.5 --stop_at_target", "--stop_at_target: the run in "),
        ("--stop_below 0.9@2", "--stop_below 0.9@2: the run in "),
    ],
)
def test_a_run_that_went_on_past_a_stop_is_refused(grown, said, quick, tmp_path):
    quick("--grid init_lr=0.1")
    code, out, err = quick("--grid init_lr=0.1", f"{FLAGS} {grown}")
    assert (code, out) == (2, "")
    assert err.startswith(f"sweep.py: {said}")
    assert "would have stopped in round 2, and has 4 rounds; ask for what it had, or choose another folder" in err
    assert starts(tmp_path) == {"init_lr=0.1/seed0": 1}


def test_a_run_that_diverged_later_has_the_rounds_before(quick, tmp_path, capsys):
    _, first, _ = quick("--grid init_lr=5", f"{FLAGS} --global_epoch 1")
    _, out, _ = quick("--grid init_lr=5", f"{FLAGS} --global_epoch 4")
    assert "lr=5 (diverged: seed 0)" in out
    code, out, err = quick("--grid init_lr=5", f"{FLAGS} --global_epoch 1")
    assert (code, err) == (0, "")
    assert out[out.index("\nrun ") :] == first[first.index("\nrun ") :]
    assert "lr=5 (diverged" not in out
    _, out, _ = quick("--grid init_lr=5", f"{FLAGS} --global_epoch 4")
    assert "lr=5 (diverged: seed 0)" in out
    assert compare.run([str(tmp_path / "out/init_lr=5.0/seed0"), "--out", str(tmp_path / "c.png")]) == 0
    assert "(diverged)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("had", "now", "differs"),
    [
        ("", "", None),
        ("--num_select_clients 2", "--num_select_clients 2", None),
        ("--num_select_clients 2", "--num_select_clients 3", "num_select_clients 3"),
        ("--num_select_clients 2", "", "num_select_clients"),
        ("--client_fraction 0.5", "--client_fraction 0.5", None),
    ],
)
def test_what_the_data_set_says_is_no_other_flag(had, now, differs):
    """With --partition natural only the data say how many clients there are, and config.json knows it."""

    def config(more):
        flags = f"--dataset csv --label y --client site --partition natural {more}"
        return parse(flags.split(), "federated", "")

    recorded = asdict(with_clients(config(had), 6)) | {"script": "federated"}
    if differs is None:
        check_same(Path("run"), recorded, config(now))
    else:
        with pytest.raises(FlagError, match=f"--{differs}: "):
            check_same(Path("run"), recorded, config(now))


def test_another_partition_is_said_before_the_clients_that_it_has():
    flags = "--dataset csv --label y --client site --num_select_clients"
    recorded = asdict(parse(f"{flags} 2 --num_clients 3".split(), "federated", "")) | {"script": "federated"}
    with pytest.raises(FlagError, match="--partition natural: the run in run has iid"):
        check_same(Path("run"), recorded, parse(f"{flags} 4 --partition natural".split(), "federated", ""))


def test_a_round_that_was_once_the_last_is_no_stop():
    records = [record(0, 0.1), record(1, None, None), record(2, 0.9), record(3, None, None), record(4, 0.9)]
    config = parse(["--target_accuracy", "0.5", "--stop_at_target", "--eval_every", "4"], "federated", "")
    check_stop(Path("run"), records, config)
    with pytest.raises(FlagError, match="--stop_at_target: the run in run would have stopped in round 2, and has 4"):
        check_stop(Path("run"), records, replace(config, eval_every=2))


def test_what_a_round_that_was_once_the_last_found_counts_for_stop_below():
    records = [record(0, 0.1), *(record(t, None, None) for t in range(1, 13))]
    records[5], records[7], records[10] = record(5, 0.15), record(7, 0.25), record(10, 0.18)
    config = parse(["--stop_below", "0.2@10", "--eval_every", "5"], "federated", "")
    assert not any(fell_below(records[: t + 1], config.stop_below) for t in range(13))
    check_stop(Path("run"), records, config)
    records[7] = record(7, 0.19)
    with pytest.raises(FlagError, match=r"--stop_below 0\.2@10: the run in run would have stopped in round 10"):
        check_stop(Path("run"), records, config)


@pytest.mark.slow
def test_other_data_are_refused_also_for_a_run_that_is_over(tmp_path, capsys):
    for name, border in (("one", 50), ("two", 30)):
        rows = "".join(f"{i},{i % 5},{int(i < border)}\n" for i in range(100))
        (tmp_path / f"{name}.csv").write_text("x,site,y\n" + rows)
    (tmp_path / "moved.csv").write_bytes((tmp_path / "one.csv").read_bytes())
    flags = (
        "--dataset csv --label y --client site --partition natural --model logistic --optimizer sgd --global_epoch 1"
    )

    def run(data):
        words = ["--grid", "init_lr=0.1", "--out", str(tmp_path / "out"), "--", *flags.split()]
        return sweep.run([*words, *([f"--data_dir={tmp_path / data}"] if data else [])]), *capsys.readouterr()

    assert run("one.csv")[0] == 0
    assert "0 done" in run("moved.csv")[1]  # it has to look
    assert "1 done" in run("moved.csv")[1]
    assert run(None)[0] == 2  # where --data_dir is the default, it does not stay what it was
    code, _, err = run("two.csv")
    assert code == 4
    assert "the run had data_sha256" in err
    assert len(err.splitlines()) == 1


def test_a_run_that_diverged_is_started_again_only_if_its_end_may_be_another(quick, tmp_path):
    for flags, times in ((FLAGS, 1), (FLAGS, 1), (f"{FLAGS} --stop_at_target", 2)):
        assert quick("--grid init_lr=5 --seeds 1", flags)[0] == 0
        assert starts(tmp_path) == {"init_lr=5.0/seed0": times}


def test_a_run_folder_is_no_place_for_tables(quick, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    code, _, err = quick("--grid init_lr=0.1 --seeds 1")
    assert code == 2
    assert err.endswith("out: is the folder of a run, whose files would be replaced; choose another name\n")


def test_seeds_that_were_trained_with_other_code_are_warned_of(quick, tmp_path):
    assert quick("--grid init_lr=0.1 --seeds 2")[2] == ""
    for k in range(2):
        folder = tmp_path / "out" / "init_lr=0.1" / f"seed{k}"
        (folder / "environment.json").write_text(json.dumps({"own_files": {"net.py": str(k), "same.py": "0"}}))
    code, _, err = quick("--grid init_lr=0.1 --seeds 2")
    assert code == 0
    assert "seed1 count as one experiment, but net.py changed between them; make these runs again" in err


def test_a_launchers_variables_do_not_reach_the_runs(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    found = alone()
    assert not {"RANK", "WORLD_SIZE"} & set(found)
    assert (found["OMP_NUM_THREADS"], found["PATH"]) == ("1", os.environ["PATH"])
