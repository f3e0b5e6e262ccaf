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


def test_numbers_are_the_runs_own(runs):
    from fl.record import read_records

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
