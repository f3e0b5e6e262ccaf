import os
import random
import re
import shutil
import socket
import stat

import pytest

import compare
from tests.folders import lines, make_run, record


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
def test_errors_are_one_line(argv, code, message, tmp_path, capsys):
    make_run(tmp_path / "base")
    assert compare.run([word.format(runs=tmp_path) for word in argv]) == code
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_spread():
    assert compare.spread([1.0, 3.0], ".1f") == "2.0 ± 1.4"
    assert compare.spread([1.0, 1.0], ".1f") == "1.0"
    assert compare.spread([None, 2.0], ".1f") == "2.0 (1 of 2)"
    assert compare.spread([None], ".1f") == "-"


@pytest.fixture
def undrawn(monkeypatch):
    """The table without the picture, which takes a second."""
    import fl.plot

    monkeypatch.setattr(fl.plot, "save_comparison", lambda path, runs: path.write_text("drawn"))


def told(capsys, *words):
    """Exit code, the rows of the table and the lines on stderr of a comparison."""
    capsys.readouterr()
    code = compare.run(list(map(str, words)))
    out, err = capsys.readouterr()
    return code, [line for line in out.splitlines()[1:] if line.startswith(("federated", "baseline"))], err.splitlines()


def n_of(row):
    return int(re.split(r"\s{2,}", row)[1])


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


@pytest.mark.parametrize(
    ("name", "begins", "holds"),
    [("c.png", b"\x89PNG", b"IEND"), ("c.PDF", b"%PDF-", b"%%EOF"), ("c.Svg", b"<?xml", b"</svg>")],
)
def test_the_picture_has_the_format_of_its_name(name, begins, holds, tmp_path, capsys):
    make_run(tmp_path / "a")
    code, _, err = told(capsys, tmp_path / "a", "--out", tmp_path / name)
    assert (code, err) == (0, [])
    content = (tmp_path / name).read_bytes()
    assert content.startswith(begins)
    assert holds in content[-100:]


@pytest.mark.parametrize("name", ["c.jpg", "c", "c.png.bak", ".png", "c.", "png", "c.ps"])
def test_other_formats_are_refused_before_anything_is_read(name, tmp_path, capsys, undrawn):
    code, rows, err = told(capsys, tmp_path / "nowhere", "--out", tmp_path / name)
    assert (code, rows) == (2, [])
    message = f"--out {tmp_path / name}: expected the name of a picture that ends in .pdf, .png, .svg"
    assert err == [f"compare.py: {message}"]
    assert not list(tmp_path.iterdir())


def test_help_tells_the_formats_and_which_run_counts(capsys):
    with pytest.raises(SystemExit) as end:
        compare.run(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    assert "ends in .pdf, .png or .svg" in text
    assert "counts once, from the first" in text


def device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")


def unix_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket is short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        device,
        unix_socket,
        lambda path: path.symlink_to("/dev/null"),
        lambda path: path.symlink_to(path.parent),
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to(path.name),
    ],
    ids=["directory", "fifo", "device", "socket", "link to a device", "link to a directory", "dead link", "loop"],
)
def test_a_picture_replaces_nothing_but_a_regular_file(make, tmp_path, capsys, undrawn):
    run, out = make_run(tmp_path / "a"), tmp_path / "c.png"
    make(out)
    before = out.lstat()
    code, rows, err = told(capsys, run, "--out", out)
    assert (code, rows) == (2, [])
    assert err == [f"compare.py: --out {out}: exists and is not a regular file; choose another name"]
    assert out.lstat() == before


def test_a_picture_replaces_a_picture(tmp_path, capsys, undrawn):
    run, out = make_run(tmp_path / "a"), tmp_path / "c.png"
    for _ in range(2):
        assert told(capsys, run, "--out", out)[0] == 0
        assert told(capsys, run, "--out", run / "comparison.png")[0] == 0
    assert out.read_text() == "drawn"


OWN = ("metrics.jsonl", "config.json", "summary.json", "model.pt", "curves.png", "partition.png")


def test_a_picture_does_not_replace_what_a_run_wrote(tmp_path, capsys, undrawn):
    """By its name, which may be free as yet, by a link to it or to its folder, and by a second name of the file."""
    run, other = make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)
    for name in OWN[3:]:
        (run / name).write_text(name)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "soft.png").symlink_to("a/metrics.jsonl")
    (tmp_path / "hard.png").hardlink_to(run / "metrics.jsonl")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    names = [run / name for name in OWN] + [other / "curves.png", other / "CURVES.PNG", tmp_path / "link/curves.png"]
    for out in [*names, tmp_path / "soft.png", tmp_path / "hard.png"]:
        for compared in (run, other):
            if compared is other and out.name == "hard.png":
                continue  # without a look at every run there is, nobody knows
            code, rows, err = told(capsys, compared, "--out", out)
            assert (code, rows) == (2, [])
            assert err[0].startswith(f"compare.py: --out {out}: ")
            assert len(err) == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert (tmp_path / "soft.png").is_symlink()


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


def test_largest_numbers_that_a_record_may_hold(tmp_path, capsys):
    """Sums, spreads and curves of them are finite."""
    for seed, sign in ((0, 1), (1, -1)):
        folder = make_run(tmp_path / f"a{seed}", seed=seed)
        most = 2**63 - 1
        records = [
            record(t, 1, sign * 1e100, examples=most, local_steps=most, downlink_bytes=most, uplink_bytes=most,
                   round_seconds=1e100) for t in range(4)
        ]  # fmt: skip
        records.append(record(4, 0, None, train_loss=None))
        (folder / "metrics.jsonl").write_text(lines(records))
    code, rows, err = told(capsys, f"{tmp_path}/a*", "--out", tmp_path / "c.png")
    assert (code, len(rows), err) == (0, 1, [])


def test_a_run_without_a_finite_loss_is_drawn(tmp_path, capsys):
    folder = make_run(tmp_path / "a")
    (folder / "metrics.jsonl").write_text(lines([record(0, 0.1, None), record(1, 0.1, None)]))
    code, rows, err = told(capsys, folder, "--out", tmp_path / "c.png")
    assert (code, len(rows), err) == (0, 1, [])


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
