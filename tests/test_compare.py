"""compare.py: which runs it takes, what repeats what, and its table on the screen."""

import os
import shutil

import pytest

import compare
from fl.comparing.tables import measured, on_screen
from fl.records.reading import read_records
from tests.folders import body, make_run, told


@pytest.fixture
def runs(command):
    for seed in range(3):
        command("federated", f"--seed {seed} --target_accuracy 0.5", folder=f"fed{seed}")
    command("federated", "--partition shards --target_accuracy 0.5", folder="shards")
    done = command("baseline", "", folder="base")
    return done.folder.parent


def test_one_row_an_experiment_with_spread_over_seeds(runs, capsys):
    assert compare.run([f"{runs}/fed*", f"{runs}/shards", f"{runs}/base", "--out", f"{runs}/c.png"]) == 0
    out = capsys.readouterr().out
    lines = body(out)
    assert [line.split("  ")[0].strip() for line in lines] == ["iid", "shards", "baseline"]
    assert " 3 " in lines[0]
    assert "±" in lines[0]
    assert "±" not in lines[1]
    assert "to 0.5" in out
    assert (runs / "c.png").read_bytes().startswith(b"\x89PNG")


def rows(runs, capsys, *patterns):
    capsys.readouterr()
    assert compare.run([*(f"{runs}/{pattern}" for pattern in patterns), "--out", f"{runs}/c.png"]) == 0
    return body(capsys.readouterr().out)


def test_different_experiments_are_not_averaged(runs, command, capsys):
    """Baselines that match different runs, runs to different targets, unfinished runs."""
    command("baseline", f"--match {runs}/fed0", folder="match0")
    command("baseline", f"--match {runs}/fed0 --seed 7", folder="match1")
    command("federated", "--global_epoch 5 --local_epoch 1", folder="other")
    command("baseline", f"--match {runs}/other", folder="match-other")
    examples = []
    for seed in (0, 1):
        done = command("federated", f"--partition dirichlet --alpha 0.3 --seed {seed}", folder=f"skewed{seed}")
        examples.append([record["examples"] for record in done.records])
        command("baseline", f"--match {runs}/skewed{seed}", folder=f"match-skewed{seed}")
    assert examples[0] != examples[1]
    assert len(rows(runs, capsys, "match-skewed*")) == 1
    shutil.move(runs / "skewed1", runs / "gone")
    assert len(rows(runs, capsys, "match-skewed*")) == 2
    command("federated", "--partition dirichlet --seed 1", folder="skewed1")
    assert len(rows(runs, capsys, "match-skewed*")) == 2
    assert len(rows(runs, capsys, "match0", "match1")) == 1
    assert len(rows(runs, capsys, "match0", "match-other")) == 2
    for target in ("0.4", "0.95"):
        command("federated", f"--target_accuracy {target} --stop_at_target --global_epoch 9", folder=f"to{target}")
    assert len(rows(runs, capsys, "to*")) == 2
    (runs / "fed0" / "summary.json").unlink()
    assert "unfinished, round 3" in " ".join(rows(runs, capsys, "fed0", "fed1"))


def test_odd_folders(runs, capsys):
    (runs / "base").rename(runs / "[x]")
    assert len(rows(runs, capsys, "[x]")) == 1
    (runs / "shards" / "metrics.jsonl").write_text("")
    assert len(rows(runs, capsys, "fed*", "shards")) == 1


def test_a_folder_of_runs_is_passed_over_beside_runs(tmp_path, capsys, undrawn):
    make_run(tmp_path / "a")
    for seed in (0, 1):
        make_run(tmp_path / "sweep" / "cell" / f"seed{seed}", seed=seed)
    assert compare.run([str(tmp_path / "a"), str(tmp_path / "sweep"), "--out", str(tmp_path / "c.png")]) == 0
    out, err = capsys.readouterr()
    assert "fedavg  1 " in out
    place = tmp_path / "sweep"
    holds = f"{place / 'config.json'}: there is none, but the folder holds runs; name them, as '{place / '*' / '*'}'"
    assert err == f"warning: {holds}; passed over\n"
    assert compare.run([str(tmp_path / "sweep")]) == 4
    assert capsys.readouterr().err == f"compare.py: {holds}\n"


def test_data_of_the_users_own_are_told_apart_by_their_place(tmp_path, capsys, undrawn):
    for name, place in (("a", "one.csv"), ("b", "./one.csv"), ("c", "two.csv")):
        make_run(tmp_path / name, seed=ord(name), dataset="csv", data_dir=place, label="y")
    assert compare.run([*(str(tmp_path / name) for name in "abc"), "--out", str(tmp_path / "c.png")]) == 0
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("data_dir=")]
    assert rows[:2] == [["data_dir=one.csv", "2"], ["data_dir=two.csv", "1"]]


def test_numbers_are_the_runs_own(runs):
    folder = runs / "shards"
    row = on_screen(measured(compare.group([folder]), [0.5])).splitlines()[1].split()
    records = read_records(folder)
    assert row[2] == f"{records[-1]['test_accuracy'] * 100:.2f}"
    assert row[4] == f"{records[-1]['test_loss']:.4f}"
    assert f"{sum(r['examples'] for r in records):,}" in row
    assert f"{sum(r['local_steps'] for r in records):,}" in row
    assert row[-2] == f"{sum(r['uplink_bytes'] for r in records) / 1e6:.3f}"


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["{runs}/base", "--target_accuracy", "0.5", "--target_accuracy", "x"], 2, "--target_accuracy x: expected"),
        (["{runs}/base", "--out", "."], 2, "--out .: expected the name of a picture"),
        ([], 4, "runs/: holds no runs; make one with python3 run_federated.py"),
        (["nowhere"], 4, "nowhere: no such run folder"),
        (["."], 4, "compare.py: config.json: there is none, but the folder holds runs; name them, as '*'"),
        (["{runs}/empty"], 4, "config.json: cannot be read"),
        (["{runs}/base", "--target_accuracy", "7"], 2, "--target_accuracy 7: expected a number in (0, 1]"),
        (["{runs}/base", "--out", "/proc/x/c.png"], 2, "--out /proc/x/c.png: cannot be written"),
    ],
)
def test_errors_are_one_line(argv, code, message, tmp_path, capsys, monkeypatch):
    make_run(tmp_path / "base")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert compare.run([word.format(runs=tmp_path) for word in argv]) == code
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_without_arguments_the_newest_runs_are_compared(tmp_path, capsys, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)
    code, _, err = told(capsys)
    made = "make one with python3 run_federated.py, or name run folders"
    assert (code, err) == (4, [f"compare.py: runs/: holds no runs; {made}"])
    (tmp_path / "runs").mkdir()
    assert told(capsys)[2] == err
    for number in range(10):
        folder = make_run(tmp_path / "runs" / f"r{number}", init_lr=0.1 + number / 100)
        os.utime(folder / "metrics.jsonl", (0, 100 - number))  # the first is the newest
    make_run(tmp_path / "runs" / "sweep" / "inner")
    (tmp_path / "runs" / "notes.txt").write_text("not a run")
    capsys.readouterr()
    assert compare.run([]) == 0
    out, err = capsys.readouterr()
    newest = [f"r{number}" for number in range(8)]
    assert out.splitlines()[0] == f"the newest runs in runs/: {', '.join(newest)}"
    assert [row.split()[0] for row in body(out)] == [f"lr={0.1 + number / 100:g}" for number in range(8)]
    assert err == ""
    assert (tmp_path / "comparison.png").read_text() == "drawn"
