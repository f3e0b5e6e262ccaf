"""What is drawn of several experiments; tests/test_curves.py has the numbers behind it."""

import re
import zlib
from itertools import combinations

import pytest

from fl.pictures.comparison import Sheet, save_comparison
from fl.pictures.style import style
from tests.folders import record


def run(*accuracies, losses=None, examples=10, seconds=1.0):
    losses = losses or [2.3 * (1 - a) + 0.01 for a in accuracies]
    rows = []
    for t, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True)):
        spent = {"examples": examples, "round_seconds": seconds, "downlink_bytes": 5, "uplink_bytes": 5}
        rows.append(record(t, accuracy, loss, **{key: value * (t > 0) for key, value in spent.items()}))
    return rows


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """draw(runs, axes=...): the figure, as it would be written."""
    made = []
    monkeypatch.setattr("fl.pictures.comparison.encoded", lambda figure, *_: made.append(figure) or b"")

    def figure(runs, **sheet):
        save_comparison(tmp_path / "c.png", runs, Sheet(**sheet))
        made[-1].draw_without_rendering()  # for the layout
        return made[-1]

    return figure


def shown(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def lines(axes):
    """The curves: not the arrows at the edge, nor the targets."""
    return [line for line in axes.lines if len(line.get_xdata()) > 1 and line.get_transform() == axes.transData]


def legend(figure):
    return figure.legends[0]


def labels(figure):
    return [text.get_text() for text in legend(figure).get_texts()]


def said(figure):
    return legend(figure).get_title().get_text()


def within(figure, texts):
    """Whether nothing of the texts is cut off."""
    outside = [text for text in texts if text.get_window_extent().x1 > figure.get_window_extent().x1]
    return not outside


THREE = [run(0.1, 0.5, 0.7), run(0.1, 0.6, 0.8), run(0.1, 0.7, 0.9)]


def test_several_seeds_are_one_line_and_one_band(draw):
    figure = draw({"a": THREE, "b": [run(0.1, 0.4, 0.5)]}, axes=("rounds",))
    for axes in shown(figure):
        assert len(lines(axes)) == 2
        assert len(axes.collections) == 1
    assert labels(figure) == ["a (n=3)", "b (n=1)"]
    assert said(figure) == "line: mean over n seeds; band: ± 1 standard deviation"
    band = shown(figure)[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(90)  # 80 + 10
    figure = draw({"a": THREE}, axes=("rounds",), band="range")
    assert labels(figure) == ["a"]
    assert said(figure) == "line: mean over n=3 seeds; band: lowest to highest"
    figure = draw({"a": [run(0.1, 0.4, 0.7)]})
    assert not shown(figure)[0].collections
    assert said(figure) == ""


def test_labels_are_text_whatever_they_hold(draw):
    names = ["_under", "$x_1$", "$\\frac$", "a " * 60]
    figure = draw({name: [run(0.1, 0.5)] for name in names})
    assert [" ".join(label.split()) for label in labels(figure)] == [name.strip() for name in names]
    assert within(figure, legend(figure).get_texts())


def test_styles_never_repeat(draw):
    looks = [style(number)[:3] for number in range(252)]
    assert len(set(map(str, looks))) == len(looks)
    for one, other in combinations(looks[:7], 2):
        assert one[0] != other[0]
    figure = draw({f"run {n}": [run(0.1, 0.5, 0.5 + n / 100)] for n in range(20)}, axes=("rounds",))
    drawn = {(line.get_color(), str(line.get_linestyle()), str(line._unscaled_dash_pattern), line.get_marker())
             for line in lines(shown(figure)[0])}  # fmt: skip
    assert len(drawn) == len(lines(shown(figure)[0])) == len(labels(figure)) == 20
    assert all(line.get_markevery() for line in lines(shown(figure)[0]))  # each has markers to be known by


def test_the_sheet_leaves_out_what_says_nothing(draw):
    assert [axes.get_xlabel() for axes in shown(draw({"a": THREE}))] == ["rounds", "rounds"]
    figure = draw({"a": THREE, "b": [run(0.1, 0.4, 0.5, examples=50)]})
    assert [axes.get_xlabel() for axes in shown(figure)] == ["rounds", "examples processed"] * 2
    assert [axes.get_ylabel() for axes in shown(figure)] == ["test accuracy (%)", "", "test loss (nats)", ""]


@pytest.mark.parametrize(("size", "width"), [("column", 3.3), ("page", 6.9)])
@pytest.mark.parametrize("axes", [("rounds",), ("rounds", "examples", "bytes", "seconds")])
@pytest.mark.parametrize("metrics", [("test_accuracy",), ("test_accuracy", "test_loss", "train_loss")])
def test_a_size_is_a_width_and_letters_of_eight_points(size, width, axes, metrics, draw):
    runs = {f"experiment number {n} of them": THREE for n in range(5)}
    figure = draw(runs, axes=axes, metrics=metrics, size=size, title="all that the runs share, " * 5)
    assert figure.get_figwidth() == width
    assert len(shown(figure)) == len(axes) * len(metrics)
    sizes = {axes.xaxis.label.get_size() for axes in shown(figure)} | {figure._suptitle.get_size()}
    assert sizes == {8.0}
    assert within(figure, (figure._suptitle, *legend(figure).get_texts()))
    assert all(place.get_position().height * figure.get_figheight() > 1 for place in shown(figure))


def test_a_pdf_has_letters_that_stay_letters(tmp_path):
    save_comparison(
        tmp_path / "c.pdf", {"a": THREE}, Sheet(axes=("rounds",), metrics=("test_accuracy",), size="column")
    )
    content = (tmp_path / "c.pdf").read_bytes()
    assert b"/Type3" not in content
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL)
    assert any(zlib.decompress(stream).startswith(b"\0\1\0\0") for stream in streams)  # the head of a TrueType font
    width = re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", content)
    assert float(width[1]) == pytest.approx(3.3 * 72, abs=0.1)


def test_targets_are_in_view_and_named(draw):
    axes = shown(draw({"a": THREE}, targets=(0.99,)))[0]
    assert axes.get_ylim()[1] > 99
    assert [text.get_text() for text in axes.texts] == ["99\xa0%"]
    figure = draw({"a": THREE}, targets=(0.99,), metrics=("test_loss",))
    assert not shown(figure)[0].texts


def test_what_is_out_of_view_is_marked_and_said(draw):
    good, other = run(0.1, 0.98, 0.99), run(0.12, 0.97, 0.99)
    figure = draw({"good": [good], "other": [other], "bad": [run(0.1, 0.2, 0.1, losses=[2.3, 60.0, None])]})
    assert said(figure).splitlines() == [
        "▼ below the view: round 0 (untrained): 10.0 to 12.0\xa0%; bad: 10.0 to 20.0\xa0%",
        "▲ above the view: bad: up to infinity",
    ]
    accuracy, loss = shown(figure)
    assert accuracy.get_ylim()[0] > 90
    assert loss.get_ylim()[1] < 10
    assert {line.get_marker() for line in accuracy.lines if len(line.get_xdata()) == 1} == {"v"}
    assert {line.get_marker() for line in loss.lines if len(line.get_xdata()) == 1} == {"^"}
    # The line does not come down from round 0, which is out of view.
    assert list(lines(accuracy)[0].get_xdata()) == [1, 2]


def test_what_a_logarithmic_axis_cannot_have_is_not_said_either(draw):
    small = [one | {"uplink_bytes": one["uplink_bytes"] / 100} for one in run(0.1, 0.97, 0.98)]
    runs = {"large": [run(0.1, 0.98, 0.99)], "small": [small]}
    assert "round 0" in said(draw(runs, axes=("rounds",), metrics=("test_accuracy",)))
    figure = draw(runs, axes=("uplink",), metrics=("test_accuracy",))
    assert shown(figure)[0].get_xscale() == "log"
    assert said(figure) == ""


def test_round_0_that_fits_is_drawn(draw):
    figure = draw({"a": [run(0.1, 0.4, 0.7)]}, metrics=("test_accuracy",))
    assert list(lines(shown(figure)[0])[0].get_xdata()) == [0, 1, 2]
    assert said(figure) == ""


def test_seeds_of_different_length_are_said(draw):
    for axis in ("rounds", "seconds"):
        figure = draw({"a": [run(0.1, 0.5), run(0.1, 0.5, 0.8)]}, axes=(axis,))
        assert said(figure).count("a line ends with its shortest") == 1


def test_an_axis_has_numbers_that_can_be_read(draw):
    def label(examples, seconds):
        runs = {"a": [run(0.1, 0.5, examples=examples, seconds=seconds)]}
        return [axes.get_xlabel() for axes in shown(draw(runs, axes=("examples", "seconds"), metrics=("test_loss",)))]

    assert label(10, 1) == ["examples processed", "training time (seconds)"]
    assert label(60_000, 600) == ["examples processed (thousands)", "training time (minutes)"]
    assert label(3_000_000, 10_000) == ["examples processed (millions)", "training time (hours)"]


def test_what_sends_nothing_has_no_place_on_an_axis_of_bytes(draw):
    silent = [r | {"downlink_bytes": 0, "uplink_bytes": 0} for r in run(0.1, 0.5)]
    figure = draw({"a": [run(0.1, 0.5)], "b": [silent]}, axes=("bytes",), metrics=("test_loss",))
    assert len(lines(shown(figure)[0])) == 1
    assert labels(figure) == ["a"]
    assert said(figure) == "nothing to draw on these axes: b"
    both = draw({"a": [run(0.1, 0.5)], "b": [silent]}, axes=("rounds", "bytes"), metrics=("test_loss",))
    assert labels(both) == ["a", "b"]
    assert said(both) == ""
    neither = draw({"b": [silent]}, axes=("bytes",), metrics=("test_loss",))
    assert labels(neither) == ["b"]


@pytest.mark.parametrize("metrics", [("test_accuracy",), ("test_loss",), ("train_loss",)])
def test_a_run_without_rounds_is_drawn(metrics, draw):
    assert len(shown(draw({"a": [run(0.1)]}, axes=("rounds", "seconds"), metrics=metrics))) == 2


def test_what_clients_send_has_a_logarithm_where_it_is_far_apart(draw):
    def panel(factor):
        less = [row | {"uplink_bytes": row["uplink_bytes"] / factor} for row in run(0.1, 0.5, 0.6)]
        return shown(draw({"a": [run(0.1, 0.5, 0.6)], "b": [less]}, axes=("uplink",), metrics=("test_accuracy",)))[0]

    assert panel(5).get_xscale() == "linear"
    far = panel(50)
    assert far.get_xscale() == "log"
    assert [len(line.get_xdata()) for line in lines(far)] == [2, 2]  # without round 0, for 0 has no logarithm
