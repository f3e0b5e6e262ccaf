"""Functions of the user's own that return arrays: what becomes of them, and what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import run_federated
from data.arrays import from_arrays, put_aside
from fl.errors import DataError

X = np.arange(24, dtype=np.float64).reshape(8, 3)
Y = np.arange(8) % 2


def made(*arrays, **by_name):
    return from_arrays("own.py:f", arrays or by_name, test_fraction=0.25, seed=0)


def refused(*arrays, **by_name):
    with pytest.raises(DataError) as error:
        made(*arrays, **by_name)
    assert str(error.value).startswith("--dataset own.py:f: ")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (X, torch.float32),
        (X.astype(">f4"), torch.float32),
        (torch.from_numpy(X).half(), torch.float32),
        (X > 3, torch.float32),
        (X.astype(np.uint8), torch.uint8),
        (X.astype(np.uint16), torch.int64),
        (torch.from_numpy(X).int(), torch.int64),
        (X.tolist(), torch.float32),
        (X[::-1].copy()[::-1], torch.float32),
        (np.broadcast_to(X[:1], X.shape), torch.float32),  # which may not be written to
        (X.reshape(8, 1, 3, 1), torch.float32),
    ],
)
def test_inputs_keep_their_values_and_their_shape(x, dtype):
    data = made(x=x, y=Y, x_test=x, y_test=Y)
    assert data.train.examples.dtype == dtype
    expected = torch.as_tensor(np.array(x, dtype=np.float64))
    torch.testing.assert_close(data.train.examples.double(), expected, rtol=0, atol=0)
    inputs = data.inputs(torch.arange(8))
    scaled = expected / 255 if dtype == torch.uint8 else expected
    torch.testing.assert_close(inputs.double(), scaled, rtol=1e-6, atol=1e-6)


def test_two_or_four_arrays_or_names_for_them():
    two, named = made(X, Y), made(x=X, y=Y, clients=None)
    assert two.sha256() == named.sha256()
    assert (len(two.train), len(two.test), two.classes, two.shape) == (6, 2, 2, (3,))
    train, test = put_aside(torch.from_numpy(Y), 0.25, 0)
    assert two.test.examples[:, 0].tolist() == (3 * test).tolist()
    assert two.train.examples[:, 0].tolist() == (3 * train).tolist()
    four = made(X, Y, X[:2], Y[:2])
    assert four.sha256() == made(x=X, y=Y, x_test=X[:2], y_test=Y[:2]).sha256()
    assert (len(four.train), len(four.test)) == (8, 2)


@pytest.mark.parametrize("whose", [["b", "b", "a", "a", "c", "c", "c", "c"], [5, 5, 2, 2, 9, 9, 9, 9]])
def test_clients_are_numbered_in_their_order_and_go_with_their_examples(whose):
    numbers = [1, 1, 0, 0, 2, 2, 2, 2]
    assert made(x=X, y=Y, x_test=X, y_test=Y, clients=whose).clients.tolist() == numbers
    data = made(x=X, y=Y, clients=torch.tensor(whose) if whose[0] == 5 else np.array(whose))
    assert data.clients.tolist() == [numbers[int(x) // 3] for x in data.train.examples[:, 0]]
    assert sorted(set(data.clients.tolist())) == [0, 1, 2]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((X, Y, X), "returned a tuple of 3; expected a mapping with x and y, and maybe x_test"),
        ({"X": X, "y": Y}, "returned 'X'; did you mean x?"),
        ({"x": X}, "returned no y; expected a mapping"),
        ({"x": X, "y": Y, "x_test": X}, "returned no y_test; expected a mapping"),
        ({"x": X, "y": Y, "labels": Y}, "returned 'labels'; expected a mapping"),
        ((X, Y[:5]), "x has the shape (8, 3), y 5 labels; expected the same number of both, and at least one"),
        ((X[:0], Y[:0]), "x has the shape (0, 3), y 0 labels; expected the same number of both, and at least one"),
        (
            (X, Y, X[:0], Y[:0]),
            "x_test has the shape (0, 3), y_test 0 labels; expected the same number of both, and ",
        ),
        ((X[:, 0], Y), "x: has the shape (8,); expected (examples, ...), such as (100, 8)"),
        ((np.array([["a", 1]] * 8, dtype=object), Y), "x: has the dtype object; expected numbers"),
        ((np.where(X == 16, np.nan, X), Y), "x: example 5 has a NaN or an infinity"),
        ((X, Y, np.where(X == 16, np.inf, X), Y), "x_test: example 5 has a NaN or an infinity"),
        ((X * 1e300, Y), "x: example 0 has a NaN or an infinity"),
        ((torch.ones(8, 3) * 1j, Y), "x: has the dtype torch.complex64; expected bytes, floats or integers"),
        ((X, Y.astype(float)), "y: labels are no integers; expected integers from 0 to classes - 1"),
        ((X, Y.astype(str)), "y: has the dtype <U21; expected numbers"),
        ((X, 2 * Y - 1), "y: labels go from -1 to 1; expected 0 to classes - 1"),
        ((X, Y * 10**13), "y: labels go from 0 to 10000000000000; expected 0 to classes - 1, which is below 1,000,000"),
        ((X, Y + 1), "y: labels begin at 1; expected them to begin at 0"),
        ((np.ma.masked_equal(X, 3), Y), "x: is a masked array, whose gaps would get lost; fill them"),
        ((X, 0 * Y), "y: all labels are 0; expected two classes or more"),
        ((X, np.array(3)), "y: has the shape (); expected (examples,)"),
        ((X, np.arange(8) // 7), "y: one example alone has the label 1; expected two, one for the test"),
        ((X, Y, X, Y + 1), "y_test: has the label 2, which y has not"),
        ((X, Y, X[:, :2], Y), "x_test and y_test: have examples of shape (2,); expected (3,), as x and y have"),
        ((X, Y, X.astype(np.uint8), Y), "x_test and y_test: have the dtype torch.uint8; expected torch.float32"),
        ({"x": X, "y": Y, "clients": [1, 2]}, "clients: has the shape (2,) and the dtype int64; expected an integer"),
        (
            {"x": X, "y": Y, "clients": X[:, 0]},
            "clients: has the shape (8,) and the dtype float64",
        ),
        ({"x": X, "y": Y, "clients": range(8)}, "no example can be held out for the test; return x_test and y_test"),
    ],
)
def test_what_is_wrong_with_arrays(arrays, message):
    said = refused(**arrays) if isinstance(arrays, dict) else refused(*arrays)
    assert message in said


def test_labels_and_clients_as_data_frames_have_them():
    assert made(X, Y[:, None], X, Y[:, None]).sha256() == made(X, Y, X, Y).sha256()
    for whose in (["b", "b", "a", "a"] * 2, [5, 5, 2, 2] * 2):
        data = made(x=X, y=Y, x_test=X, y_test=Y, clients=np.array(whose, dtype=object))
        assert data.clients.tolist() == [1, 1, 0, 0] * 2


def test_sequences_may_have_targets_that_do_not_count_and_labels_that_are_only_put_aside():
    y = np.stack([Y, np.where(np.arange(8) == 3, -100, 0)], 1)
    assert made(X, y, X, y).classes == 2
    assert {made(X, np.stack([Y, np.arange(8)], 1)).classes} == {8}
    assert "labels go from -100 to 1" in refused(X, y[:, ::-1].copy())


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_of_each_label_a_share_is_put_aside_and_no_label_all_of_it(fraction):
    labels = torch.tensor([0] * 2 + [1] * 3 + [2] * 50)
    train, test = put_aside(labels, fraction, seed=3)
    assert torch.equal(torch.cat([train, test]).sort().values, torch.arange(55))
    counts = [min(max(round(fraction * n), 1), n - 1) for n in (2, 3, 50)]
    assert torch.bincount(labels[test], minlength=3).tolist() == counts


def test_every_row_of_every_client_may_be_put_aside():
    labels, clients = torch.arange(30) % 2, torch.arange(30) % 3
    drawn = [put_aside(labels, 0.3, seed, clients)[1] for seed in range(60)]
    often = torch.bincount(torch.cat(drawn), minlength=30)
    assert int(often.min()) > 0
    assert int(torch.bincount(clients[torch.cat(drawn)]).min()) > 0.9 * 60 * 8 / 3


SOURCE = """
import numpy as np
def load(data_dir, seed):
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 3, 90)
    return {"x": draw.normal(size=(90, 4)) + y[:, None], "y": y, "clients": np.arange(90) % 5}
def wrong(data_dir):
    return {"x": [[1.0], [2.0, 3.0]], "y": [0, 1]}
class Net(__import__("torch").nn.Linear):
    def __init__(self, shape, classes, local_epoch, hidden=7):
        assert (local_epoch, hidden) == (2, 7)
        super().__init__(*shape, classes)
"""


def test_a_run_on_arrays_with_clients(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(SOURCE)
    done = command("federated", "--dataset own.py:load --model own.py:Net --partition natural --num_clients 5")
    assert done.code == 0, done.err
    assert "own.py:load: 72 training and 18 test examples, from arrays" in done.out
    bigger = command("federated", "--dataset own.py:load --test_fraction 0.5 --model mlp --hidden 3 --dry_run")
    assert "45 training and 45 test" in bigger.out
    wrong = command("federated", "--dataset own.py:wrong")
    assert wrong.code == 3
    assert wrong.err.startswith("run_federated.py: --dataset own.py:wrong: ")
    assert run_federated.run(["--dataset", "own.py:nothing"]) == 3
