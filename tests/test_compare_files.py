"""compare.py: the pictures and tables that it writes, and the words in them."""

import json
import os
import socket
import stat

import pytest

import compare
from fl.pictures.curves import value
from fl.records.reading import read_records
from tests.folders import lines, make_run, record, told


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


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_letters_that_the_font_has_not_are_said(kind, tmp_path, capsys):
    make_run(tmp_path / "a")
    out = tmp_path / f"c.{kind}"
    code, rows, err = told(
        capsys, tmp_path / "a", "--out", out, "--label", "日本", "--title", "α ∞ ü", "--axes", "rounds"
    )
    assert (code, len(rows)) == (0, 1)
    assert err == [f"warning: {out}: the font has not all of the letters; boxes take the place of the others"]
    assert told(capsys, tmp_path / "a", "--out", out, "--label", "α ∞ ü", "--title", "α & <b>")[2] == []


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
    after = out.lstat()
    assert (code, rows) == (2, [])
    assert err == [f"compare.py: --out {out}: exists and is not a regular file; choose another name"]
    # Not st_atime, which a look at a link changes.
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)


def test_a_picture_replaces_a_picture(tmp_path, capsys, undrawn):
    run, out = make_run(tmp_path / "a"), tmp_path / "c.png"
    for _ in range(2):
        assert told(capsys, run, "--out", out)[0] == 0
        assert told(capsys, run, "--out", run / "comparison.png")[0] == 0
    assert out.read_text() == "drawn"


def test_tables_are_written_beside_the_picture(tmp_path, capsys, undrawn):
    for seed in range(2):
        make_run(tmp_path / f"a{seed}", seed=seed, accuracy=0.8 + 0.1 * seed)
    words = ("--out", tmp_path / "c.png", "--csv", tmp_path / "t.csv", "--latex", tmp_path / "t.tex",
             "--markdown", tmp_path / "t.md", "--json", tmp_path / "t.json")  # fmt: skip
    code, rows, err = told(capsys, f"{tmp_path}/a*", *words)
    assert (code, len(rows), err) == (0, 1, [])
    assert (tmp_path / "t.csv").read_text().startswith("experiment,seeds,test_accuracy_mean,test_accuracy_std,")
    assert "85.00 ± 7.07" in rows[0]
    assert r"fedavg & 2 & 85.00 $\pm$ 7.07 &" in (tmp_path / "t.tex").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a0", "a1", "c.png", "t.csv", "t.json", "t.md", "t.tex",
    ]  # fmt: skip
    assert "| fedavg | 2 | 85.00 ± 7.07 |" in (tmp_path / "t.md").read_text()
    (only,) = json.loads((tmp_path / "t.json").read_text())["experiments"]
    assert only["quantities"]["test_accuracy"]["by_seed"] == {"0": 0.8, "1": 0.9}


def test_tables_are_refused_where_pictures_are(tmp_path, capsys, undrawn):
    """Other endings, special files, what a run wrote, places that cannot be written to."""
    run = make_run(tmp_path / "a")
    (run / "metrics.jsonl").rename(tmp_path / "kept.csv")
    (run / "metrics.jsonl").symlink_to(tmp_path / "kept.csv")
    os.mkfifo(tmp_path / "fifo.tex")
    (tmp_path / "link.csv").symlink_to(run / "summary.json")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for flag, name, code, said in (
        ("--csv", "t.txt", 2, "expected the name of a table that ends in .csv"),
        ("--latex", "t.csv", 2, "expected the name of a table that ends in .tex"),
        ("--latex", "fifo.tex", 2, "exists and is not a regular file"),
        ("--csv", "link.csv", 2, f"belongs to the run in {run}"),
        ("--csv", "nowhere/t.csv", 2, "cannot be written (No such file or directory)"),
    ):
        path = tmp_path / name
        found, _, err = told(capsys, tmp_path / "a", "--out", tmp_path / "c.png", flag, path)
        assert (found, len(err)) == (code, 1)
        assert err[0].startswith(f"compare.py: {flag} {path}: {said}")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_labels_and_title_of_the_users_own(tmp_path, capsys, monkeypatch):
    sheets = []
    monkeypatch.setattr(
        "fl.pictures.comparison.save_comparison", lambda path, runs, sheet: sheets.append((list(runs), sheet))
    )
    for name, flags in (("a", {}), ("b", {"init_lr": 0.5})):
        make_run(tmp_path / name, **flags)
    words = (f"{tmp_path}/*", "--label", "ours", "--label", "theirs")
    assert [row.split()[0] for row in told(capsys, *words)[1]] == ["ours", "theirs"]
    told(
        capsys,
        *words,
        "--title",
        "",
        "--axes",
        "seconds",
        "--metric",
        "train_loss",
        "--size",
        "page",
        "--band",
        "range",
    )
    (labels, usual), (_, asked) = sheets
    assert labels == ["ours", "theirs"]
    assert usual.title == "fedavg, fast_cnn on mnist, iid, K=8, m=4, E=5, B=100, adam, seed 0"
    assert (usual.axes, usual.metrics, usual.size) == (("rounds",), ("test_accuracy", "test_loss"), "sheet")
    assert (asked.axes, asked.metrics, asked.size) == (("seconds",), ("train_loss",), "page")
    assert (asked.title, asked.band) == ("", "range")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--label", "x", "--label", "y"],
            "--label y: is label 2 of 1; expected one for each experiment, in this order: fedavg",
        ),
        (["--title", "a\nb"], r"--title 'a\nb': expected text on one line, or '' for none"),
        (["--axes", "time"], "--axes: invalid choice: 'time'"),
        (["--metric", "accuracy"], "--metric: invalid choice: 'accuracy'"),
        (["--axes", "bytes"], "--axes bytes: none of these runs sent anything; expected rounds, examples, seconds"),
    ],
)
def test_words_about_the_picture_that_cannot_be_meant(words, said, tmp_path, capsys, undrawn):
    folder = make_run(tmp_path / "a")
    silent = [record(t, downlink_bytes=0, uplink_bytes=0) for t in range(4)]
    (folder / "metrics.jsonl").write_text(lines(silent))
    code, rows, err = told(capsys, folder, "--out", tmp_path / "c.png", *words)
    assert (code, rows, len(err)) == (2, [], 1)
    assert err[0].startswith(f"compare.py: {said}")


def test_a_metric_that_nobody_has_measured_is_refused(tmp_path, capsys, undrawn):
    folder = make_run(tmp_path / "a")
    (folder / "metrics.jsonl").write_text(lines([record(0)]))  # nothing has been trained yet
    code, rows, err = told(capsys, folder, "--out", tmp_path / "c.png", "--metric", "train_loss")
    assert (code, rows) == (2, [])
    assert err == ["compare.py: --metric train_loss: none of these runs has measured it"]


def test_clients_own_accuracy_is_drawn_where_it_was_measured(tmp_path, capsys):
    folder = make_run(tmp_path / "a")
    words = ("--out", tmp_path / "c.svg", "--metric", "client_accuracy")
    refused = told(capsys, folder, *words)
    assert (refused[0], refused[2]) == (2, ["compare.py: --metric client_accuracy: none of these runs has measured it"])
    tests = [{"client_accuracy": {"mean": mean, "std": 0.1, "worst_decile": 0.1}} for mean in (0.1, 0.5)]
    (folder / "metrics.jsonl").write_text(lines([record(0, **tests[0]), record(1), record(2), record(3, **tests[1])]))
    assert told(capsys, folder, *words)[0] == 0
    assert [value(one, "client_accuracy") for one in read_records(folder)] == [10, None, None, 50]


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
