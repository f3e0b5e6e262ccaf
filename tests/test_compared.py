"""Which run folders count in a comparison: repeated, copied half, damaged."""

import os
import random
import re
import shutil

import pytest

from tests.folders import lines, make_run, n_of, record, told


def test_one_folder_by_two_paths_is_one_run(tmp_path, capsys, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a0", seed=0)
    make_run(tmp_path / "a1", seed=1, accuracy=0.9)
    (tmp_path / "link").symlink_to("a0")
    expected = told(capsys, "a0", "a1")
    assert n_of(expected[1][0]) == 2
    assert expected[2] == []
    assert told(capsys, "a*", "a0", "./a1/") == expected  # one spelling
    for other in ("link", tmp_path / "a0", "a1/../a0"):
        code, rows, err = told(capsys, "a*", other)
        assert (code, rows) == expected[:2]
        assert err == [f"warning: a0 and {other} are the same folder; it counts once"]


def test_a_seed_in_two_folders_counts_once(tmp_path, capsys, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        make_run(tmp_path / f"a{seed}", seed=seed, accuracy=0.8 + 0.1 * seed)
    expected = told(capsys, "a*")
    shutil.copytree("a0", "b-copy")
    make_run(tmp_path / "c-again", seed=1, accuracy=0.2, device="cuda", data_dir="elsewhere")
    code, rows, err = told(capsys, "*")
    assert (code, rows) == expected[:2]
    assert err == [
        "warning: a0 and b-copy are the same experiment with the same seed, 0, and have the same results; "
        "only a0 counts",
        "warning: a1 and c-again are the same experiment with the same seed, 1, and have other results; only a1 counts",
    ]
    # The order on the command line says which: the first.
    row = told(capsys, "c-again", "*")[1][0]
    assert "50.00 ± 42.43" in row
    assert n_of(row) == 2
    # Another experiment with that seed is another row.
    make_run(tmp_path / "d", seed=0, init_lr=0.5)
    assert [n_of(row) for row in told(capsys, "*")[1]] == [2, 1]


def test_a_run_that_was_copied_half_is_not_taken_for_a_finished_one(tmp_path, capsys, undrawn):
    for seed in range(2):
        make_run(tmp_path / f"a{seed}", seed=seed)
    metrics = tmp_path / "a1" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    _, rows, _ = told(capsys, f"{tmp_path}/a*", "--out", tmp_path / "c.png")
    assert [n_of(row) for row in rows] == [1, 1]
    assert "(unfinished, round 2)" in rows[1]


def corrupt(name, content):
    return lambda folder: (make_run(folder, seed=9), (folder / name).write_text(content))


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: folder.mkdir(),
        lambda folder: make_run(folder / "inner", seed=9),
        lambda folder: (make_run(folder, seed=9), (folder / "metrics.jsonl").unlink()),
        corrupt("metrics.jsonl", ""),
        corrupt("metrics.jsonl", '{"round": 0, "test_acc'),
        corrupt("metrics.jsonl", "[" * 10**5),
        corrupt("metrics.jsonl", lines([record(0), record(1, examples=-1), record(2)])),
        corrupt("config.json", ""),
        corrupt("config.json", "[" * 10**5),
        corrupt("config.json", '{"script": "federated", "flag of tomorrow": 1}'),
        lambda folder: (folder.mkdir(), os.mkfifo(folder / "config.json")),
    ],
    ids=[
        "empty", "of runs", "no records", "no round", "cut at once", "deep", "wrong record",
        "no flags", "deep flags", "unknown flag", "fifo",
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_used_is_passed_over(make, tmp_path, capsys, undrawn):
    for seed in range(2):
        make_run(tmp_path / f"a{seed}", seed=seed)
    expected = told(capsys, f"{tmp_path}/a*", "--out", tmp_path / "c.png")
    make(tmp_path / "a-bad")
    code, rows, err = told(capsys, f"{tmp_path}/a*", "--out", tmp_path / "c.png")
    assert (code, rows) == expected[:2]
    assert len(err) == 1
    assert err[0].startswith(f"warning: {tmp_path}/a-bad/")
    assert err[0].endswith("passed over")
    # Alone, and among others like it, it is an error.
    make(tmp_path / "b-bad")
    for patterns in ([f"{tmp_path}/a-bad"], [f"{tmp_path}/*-bad"]):
        code, rows, err = told(capsys, *patterns, "--out", tmp_path / "c.png")
        assert (code, rows) == (4, [])
        assert len(err) == 1
        assert f"{tmp_path}/a-bad/" in err[0]
    assert "nor can any other of the 2 folders be used" in err[0]
    # So is a pattern that finds nothing, whatever the others find.
    code, rows, err = told(capsys, f"{tmp_path}/a*", f"{tmp_path}/z*", "--out", tmp_path / "c.png")
    assert (code, rows) == (4, [])
    assert err == [f"compare.py: {tmp_path}/z*: no such run folder"]


def test_a_last_line_that_is_cut_is_left_out(tmp_path, capsys, undrawn):
    for seed in range(3):
        make_run(tmp_path / f"a{seed}", seed=seed)
    metrics = tmp_path / "a2" / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-20])
    code, rows, err = told(capsys, f"{tmp_path}/a*", "--out", tmp_path / "c.png")
    assert code == 0
    assert [n_of(row) for row in rows] == [2, 1]
    assert "(unfinished, round 2)" in rows[1]
    assert err == [f"warning: {tmp_path}/a2: the last line of metrics.jsonl is cut off; the 3 before it count"]
    assert told(capsys, tmp_path / "a2", "--out", tmp_path / "c.png")[0] == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_passed_over(tmp_path, capsys, undrawn):
    make_run(tmp_path / "a0")
    (tmp_path / "a1").mkdir(0o000)
    code, rows, err = told(capsys, f"{tmp_path}/a*", "--out", tmp_path / "c.png")
    assert (code, len(rows), len(err)) == (0, 1, 1)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_damaged_the_other_runs_are_compared(seed, tmp_path, capsys, undrawn):
    """A byte, a value or the rest of a file of one run is lost or replaced."""
    r = random.Random(seed)
    for number in range(3):
        make_run(tmp_path / f"a{number}", seed=number, target_accuracy=[0.5], momentum=0.0)
    path = tmp_path / "a2" / r.choice(["metrics.jsonl", "config.json", "summary.json"])
    content, junk = path.read_text(), r.choice(["[" * 10**5, "9" * 5000, "1e999", "NaN", "true", '"', "}", "\n", "\0"])
    at = r.randrange(len(content))
    value = r.choice(list(re.finditer(r": ([^,}]*)", content)))
    damaged = [
        content[:at],
        content[:at] + junk + content[at:],
        content[: value.start(1)] + junk + content[value.end(1) :],
        content[:at] + content[at + 3 :],
    ]
    path.write_text(r.choice(damaged))
    code, rows, err = told(capsys, f"{tmp_path}/a*", "--out", tmp_path / "c.png")
    assert code == 0
    assert n_of(rows[0]) >= 2
    assert not re.search("inf|nan", " ".join(rows))
    assert len(err) <= 1
    assert all(line.startswith(f"warning: {tmp_path}/a2") for line in err)
