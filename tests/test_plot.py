import os
import subprocess
import sys

import matplotlib
import pytest
import torch
from PIL import Image

from fl.pictures.comparison import save_comparison
from fl.pictures.plot import save_curves, save_partition
from fl.pictures.style import wrapped
from tests.conftest import ROOT
from tests.folders import make_run


def record(t, accuracy, loss):
    return {"round": t, "test_accuracy": accuracy, "test_loss": loss, "train_loss": loss if t else None,
            "examples": 10, "downlink_bytes": 5, "uplink_bytes": 5, "round_seconds": 0.1}  # fmt: skip


CURVE = [record(0, 0.1, 2.3), record(1, None, None), record(2, 0.8, 0.4)]


def is_a_picture(path):
    with Image.open(path) as image:
        assert image.width > 500
        assert image.convert("L").getextrema() != (255, 255)


@pytest.mark.parametrize("K", [1, 8, 40, 41, 100, 1000])
def test_partition_pictures_for_any_number_of_clients(K, tmp_path):
    save_partition(tmp_path / "p.png", torch.randint(0, 50, (K, 10)), "title")
    is_a_picture(tmp_path / "p.png")


def test_labels_have_colours_that_tell_them_apart_or_are_rows_of_a_map(figures, tmp_path):
    for classes in (2, 20, 21):
        save_partition(tmp_path / "p.png", torch.randint(1, 50, (3, classes)), "title")
    few, many, rows = figures
    for figure, classes in ((few, 2), (many, 20)):
        bars = figure.axes[0].patches
        assert len({bar.get_facecolor() for bar in bars}) == classes
        assert [text.get_text() for text in figure.legends[0].get_texts()] == [str(c) for c in range(classes)][::-1]
    (image,) = rows.axes[1].images
    assert image.get_array().shape == (21, 3)
    assert rows.get_suptitle().startswith("title\n3 clients, n_k ")


def test_many_clients_come_in_the_order_of_their_commonest_label(figures, tmp_path):
    counts = torch.tensor([[1, 0, 9], [6, 2, 2], [0, 5, 5], [0, 8, 2]]).repeat(400, 1)
    save_partition(tmp_path / "p.png", counts, "title")
    sizes, below, *_ = figures[0].axes
    shares = torch.tensor(below.images[0].get_array().filled(0))
    assert shares.shape == (3, 1000)
    assert (shares.argmax(0).diff() >= 0).all()
    torch.testing.assert_close(shares.sum(0), torch.ones(1000), check_dtype=False)
    assert below.get_xlabel() == "1,000 of the 1,600 clients, in the order of their commonest label"
    assert sizes.get_ylim()[0] == 0


def test_curves(tmp_path):
    save_curves(tmp_path / "c.png", CURVE, "title", [0.5])
    is_a_picture(tmp_path / "c.png")
    save_curves(tmp_path / "c.png", [record(0, 0.1, 0.0)], "one round of zero loss")
    is_a_picture(tmp_path / "c.png")


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, in place of files."""
    made = []
    monkeypatch.setattr("fl.pictures.style.encoded", lambda figure, *_: made.append(figure) or b"")
    return made


def test_a_runs_own_curves_show_targets_and_mark_what_is_out_of_view(figures, tmp_path):
    good = [record(0, 0.098, 2.3), record(1, 0.98, 0.05), record(2, 0.99, 0.04)]
    save_curves(tmp_path / "c.png", good, "E=5, seed 0", [0.95])
    bad = [record(0, 0.1, 2.3), record(1, 0.1, 9.0), record(2, 0.1, 1e9)]
    save_curves(tmp_path / "c.png", bad, "_$x_", [])
    (left, right), (_, exploded) = (figure.axes for figure in figures)
    low, high = left.get_ylim()
    assert 10 < low < 95 < 99 < high
    assert figures[0].get_suptitle() == "E=5, seed 0"
    assert figures[0].get_supxlabel() == "dotted: target accuracy\n▼ below the view: round 0 (untrained): 9.8\xa0%"
    assert left.get_xlim()[0] < 0
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["test loss", "training loss"]
    assert exploded.get_ylim()[1] < 30
    assert figures[1].get_supxlabel() == "▲ above the view: test loss: up to 1e+09; training loss: up to 1e+09"
    assert figures[1].get_suptitle() == "_$x_"


RC = {
    "text.usetex": True, "savefig.bbox": "tight", "savefig.transparent": True, "figure.dpi": 31.0, "font.size": 41.0,
    "axes.facecolor": "k", "lines.linewidth": 17.0, "axes.grid": True, "figure.autolayout": True,
    "axes.formatter.limits": [0, 0], "axes.xmargin": 0.4, "image.cmap": "gray", "font.family": ["no such font"],
}  # fmt: skip


def draw(folder):
    """Every picture, and what it is in bytes."""
    folder.mkdir()
    save_partition(folder / "p.png", torch.arange(30).view(3, 10), "title")
    save_partition(folder / "many.png", torch.arange(500).view(50, 10), "title")
    save_curves(folder / "c.png", CURVE, "title", [0.5])
    for kind in ("png", "pdf", "svg"):
        save_comparison(folder / f"d.{kind}", {"a": [CURVE]})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_users_settings_change_no_picture(tmp_path):
    expected = draw(tmp_path / "a")
    with matplotlib.rc_context(RC):
        assert draw(tmp_path / "b") == expected
        assert matplotlib.rcParams["font.size"] == 41.0  # theirs outside


def compare_in_a_process(folder, **environment):
    make_run(folder / "run")
    words = [sys.executable, ROOT / "compare.py", "run", "--out", "c.png"]
    return subprocess.run(words, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=60)


def test_junk_in_the_environment_and_in_a_matplotlibrc_is_not_heard_of(tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 41\nbackend: junk\njunk: 1\nno colon\n")
    done = compare_in_a_process(tmp_path, MPLBACKEND="junk", MPLCONFIGDIR="/proc/nowhere")
    assert (done.returncode, done.stderr) == (0, "")
    clean = tmp_path / "clean"
    clean.mkdir()
    assert compare_in_a_process(clean).returncode == 0
    assert (tmp_path / "c.png").read_bytes() == (clean / "c.png").read_bytes()


def test_a_matplotlibrc_that_is_no_text_is_one_line(tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfe")
    done = compare_in_a_process(tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("compare.py: matplotlib: cannot be loaded ('utf-8' codec can't decode")
    assert len(done.stderr.splitlines()) == 1


def test_a_title_breaks_between_settings_and_not_within_them():
    title = "fedavg, 2nn, mnist, 10 of 100 clients, two labels each, seed 0"
    assert wrapped(title, 62) == [title]
    assert wrapped(title, 61) == [title.removesuffix(" seed 0"), "seed 0"]
    assert wrapped("my-long-model.py:Net, K=8", 23) == ["my-long-model.py:Net,", "K=8"]
    assert wrapped("no comma in a title of its own", 20) == ["no comma in a title", "of its own"]
