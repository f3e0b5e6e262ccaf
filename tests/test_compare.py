import pytest

import compare


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
    lines = [line for line in out.splitlines() if line.startswith(("federated", "baseline"))]
    assert [line.split("  ")[0].strip() for line in lines] == [
        "federated partition=iid",
        "federated partition=shards",
        "baseline",
    ]
    assert " 3 " in lines[0]
    assert "±" in lines[0]
    assert "±" not in lines[1]
    assert "to 0.5" in out
    assert (runs / "c.png").read_bytes().startswith(b"\x89PNG")


def rows(runs, capsys, *patterns):
    capsys.readouterr()
    assert compare.run([*(f"{runs}/{pattern}" for pattern in patterns), "--out", f"{runs}/c.png"]) == 0
    return [line for line in capsys.readouterr().out.splitlines()[1:] if line.startswith(("federated", "baseline"))]


def test_different_experiments_are_not_averaged(runs, command, capsys):
    """Baselines that match different runs, runs to different targets, unfinished runs."""
    command("baseline", f"--match {runs}/fed0", folder="match0")
    command("baseline", f"--match {runs}/fed0 --seed 7", folder="match1")
    command("federated", "--global_epoch 5 --local_epoch 1", folder="other")
    command("baseline", f"--match {runs}/other", folder="match-other")
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


def test_numbers_are_the_runs_own(runs):
    from fl.records import read_records

    folder = runs / "shards"
    row = compare.table(compare.group([folder]), [0.5]).splitlines()[1].split()
    records = read_records(folder)
    assert row[2] == f"{records[-1]['test_accuracy'] * 100:.2f}"
    assert row[4] == f"{records[-1]['test_loss']:.4f}"
    assert f"{sum(r['examples'] for r in records):,}" in row
    assert f"{sum(r['local_steps'] for r in records):,}" in row
    assert f"{sum(r['uplink_bytes'] for r in records) / 1e6:.1f}" in row


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["{runs}/base", "--target_accuracy", "0.5", "--target_accuracy", "x"], 2, "--target_accuracy x: expected"),
        (["{runs}/base", "--out", "."], 2, "--out .: expected the name of a picture"),
        ([], 2, "the following arguments are required: RUN"),
        (["nowhere"], 4, "nowhere: no such run folder"),
        (["."], 4, "config.json: cannot be read"),
        (["{runs}/base", "--target_accuracy", "7"], 2, "--target_accuracy 7: expected a number in (0, 1]"),
        (["{runs}/base", "--out", "/proc/x/c.png"], 2, "--out /proc/x/c.png: cannot be written"),
    ],
)
def test_errors_are_one_line(argv, code, message, runs, capsys):
    assert compare.run([word.format(runs=runs) for word in argv]) == code
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_spread():
    assert compare.spread([1.0, 3.0], ".1f") == "2.0 ± 1.4"
    assert compare.spread([1.0, 1.0], ".1f") == "1.0"
    assert compare.spread([None, 2.0], ".1f") == "2.0 (1 of 2)"
    assert compare.spread([None], ".1f") == "-"
