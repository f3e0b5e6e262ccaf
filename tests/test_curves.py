import math

import pytest

from fl.pictures.curves import averaged, proportional, telling, view_of
from tests.folders import record


def run(accuracies, losses=None, **changes):
    """Records of a run with these accuracies; `changes` holds each round's value of other keys."""
    losses = losses or [1.0] * len(accuracies)
    return [
        record(t, accuracy, loss, **{key: values[t] for key, values in changes.items()})
        for t, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True))
    ]


def test_the_mean_over_seeds_and_its_band():
    seeds = [run([0.1, 0.7]), run([0.1, 0.8]), run([0.1, 0.9])]
    curve = averaged("a", seeds, "rounds", "test_accuracy")
    assert (curve.x, curve.n, curve.cut) == ([0, 1], 3, False)
    assert curve.y == pytest.approx([10, 80])
    assert curve.low == pytest.approx([10, 70])  # the sample standard deviation is 10
    assert curve.high == pytest.approx([10, 90])
    of_two = averaged("a", seeds[:2], "rounds", "test_accuracy", "std")
    assert of_two.high[1] - of_two.y[1] == pytest.approx(math.sqrt(50))
    spanned = averaged("a", [*seeds, run([0.1, 0.71])], "rounds", "test_accuracy", "range")
    assert (spanned.low[1], spanned.high[1]) == pytest.approx((70, 90))


def test_one_seed_has_no_band():
    curve = averaged("a", [run([0.1, 0.7])], "rounds", "test_accuracy")
    assert curve.low == curve.y == curve.high


def test_seeds_that_differ_in_x_meet_at_their_rounds():
    seeds = [run([0.1, 0.7, 0.9], round_seconds=[0, s, s]) for s in (1.0, 3.0)]
    assert averaged("a", seeds, "seconds", "test_accuracy").x == [0, 2, 4]


def test_a_mean_ends_with_the_shortest_seed_and_skips_rounds_that_some_did_not_evaluate():
    seeds = [run([0.1, None, 0.9, 0.95]), run([0.1, None, 0.8])]
    curve = averaged("a", seeds, "rounds", "test_accuracy")
    assert (curve.rounds, curve.cut) == ([0, 2], True)
    seeds = [run([0.1, 0.5, 0.9]), run([0.1, None, 0.8])]
    assert averaged("a", seeds, "rounds", "test_accuracy").rounds == [0, 2]


def test_a_loss_that_is_not_finite_is_no_gap():
    seeds = [run([0.1, 0.1, None], [2.3, None, None]), run([0.1, 0.1, 0.1], [2.3, 9.0, 9.0])]
    curve = averaged("a", seeds, "rounds", "test_loss")
    assert curve.rounds == [0, 1]
    assert curve.y[1] == math.inf
    assert averaged("a", seeds[:1], "rounds", "train_loss").y == [math.inf, math.inf]  # round 0 trains nothing


def spending(examples, sent, seconds, rounds=4):
    def every(value):
        return [0] + [value] * rounds

    return run(
        [0.1] * (rounds + 1), examples=every(examples), downlink_bytes=every(sent), uplink_bytes=every(0),
        round_seconds=every(seconds),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("experiments", "axes"),
    [
        ([[spending(10, 5, 1)]], ["rounds"]),
        ([[spending(10, 5, 1)], [spending(10, 5, 1)]], ["rounds"]),
        ([[spending(1000, 5, 1)], [spending(1010, 5, 1)]], ["rounds"]),  # a hundredth apart
        ([[spending(10, 5, 1)], [spending(10, 0, 1)]], ["rounds"]),  # a baseline sends nothing
        ([[spending(10, 0, 1)], [spending(20, 0, 1)]], ["rounds", "examples"]),  # nothing was sent
        ([[spending(10, 5, 1)], [spending(20, 5, 1)]], ["rounds", "examples"]),  # E
        ([[spending(10, 5, 1)], [spending(20, 10, 1)]], ["rounds", "examples"]),  # C: bytes are as examples
        ([[spending(10, 5, 1)], [spending(10, 10, 1)]], ["rounds", "bytes"]),
        ([[spending(10, 5, 1)], [spending(10, 5, 2)]], ["rounds", "seconds"]),
        (
            [[spending(10, 5, 1)], [spending(20, 5, 3)], [spending(20, 9, 4)]],
            ["rounds", "examples", "bytes", "seconds"],
        ),
        ([[spending(10, 5, 1, rounds=0)], [spending(10, 5, 2, rounds=0)]], ["rounds"]),
    ],
)
def test_axes_that_say_something(experiments, axes):
    assert telling(experiments) == axes


def test_a_change_within_a_run_is_no_constant_ratio():
    slower = run([0.1] * 3, examples=[0, 10, 30])
    assert not proportional([[slower], [spending(10, 5, 1)]], "rounds", "examples")


def curves(metric, *runs):
    return [averaged(f"run {n}", [one], "rounds", metric) for n, one in enumerate(runs)]


def accuracy_view(*accuracies, targets=()):
    return view_of(curves("test_accuracy", *map(run, accuracies)), "test_accuracy", targets)


def test_round_0_is_in_view_unless_it_flattens_the_rest():
    assert accuracy_view([0.1, 0.4, 0.9]).holds(10)
    view = accuracy_view([0.1, 0.98, 0.99])
    assert not view.holds(10)
    assert view.holds(98)
    assert view.holds(99)
    assert view.high - view.low < 2
    assert accuracy_view([0.1]).holds(10)  # no round was trained


def test_targets_are_always_in_view():
    view = accuracy_view([0.1, 0.6, 0.7], targets=[20.0, 99.0])
    assert view.holds(20)
    assert view.holds(99)
    assert view.holds(60)


def test_what_never_learned_does_not_flatten_the_rest():
    view = accuracy_view([0.1, 0.98, 0.99], [0.1, 0.2, 0.1])
    assert not view.holds(20)
    assert view.low > 90
    view = accuracy_view([0.1, 0.98, 0.99], [0.1, 0.6, 0.7])  # it learned less
    assert view.holds(60)
    assert accuracy_view([0.1, 0.2, 0.1]).holds(20)  # alone it is all there is


def loss_view(*losses):
    return view_of(curves("test_loss", *(run([0.1] * len(one), one) for one in losses)), "test_loss")


def test_an_exploding_loss_does_not_flatten_the_rest():
    for worst in (1e5, 1e30, None):
        view = loss_view([2.3, 0.3, 0.1], [2.3, 20.0, worst])
        assert view.log
        assert 2.3 < view.high < 5
        assert 0.05 < view.low < 0.1
    assert loss_view([2.3, 4.0, 3.0]).holds(4)
    alone = loss_view([2.3, 20.0, 1e9])
    assert alone.holds(2.3)
    assert alone.holds(20)
    assert not alone.holds(1e9)


@pytest.mark.parametrize("losses", [[0.0], [None, None], [-1.0, -2.0], [0.0, 5.0], [1e100, 1e-300], [2.3] * 3])
def test_every_loss_has_a_view(losses):
    view = loss_view(losses)
    assert math.isfinite(view.low)
    assert view.low < view.high < math.inf
    assert not view.log or view.low > 0


def test_a_band_that_reaches_below_zero_ends_within_a_logarithmic_view():
    seeds = [run([0.1, 0.1], [2.3, loss]) for loss in (0.01, 1.0)]
    view = view_of([averaged("a", seeds, "rounds", "test_loss")], "test_loss")
    assert view.log
    assert view.low > 0.2
