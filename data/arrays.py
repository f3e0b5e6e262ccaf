"""Make a data set of the arrays that a user-supplied function returns, and hold out test examples if it has none.

{"x": inputs, "y": labels}                   --test_fraction of each label is held out for the test
{..., "x_test": inputs, "y_test": labels}    the two parts as they are
{..., "clients": owners}                     the client that owns each example of x, for --partition natural
(inputs, labels), or (inputs, labels, test inputs, test labels)
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.dataset import IGNORED, Dataset, Split
from fl.errors import DataError
from fl.rng import seeded

KEYS = ("x", "y", "x_test", "y_test", "clients")
MOST_CLASSES = 1_000_000  # a label beyond it is an identifier, for which a model would have as many outputs
SHAPES = "a mapping with x and y, and maybe x_test, y_test and clients, or a tuple of 2 or 4 arrays"


def from_arrays(name: str, made: Mapping[str, Any] | Sequence[Any], test_fraction: float, seed: int) -> Dataset:
    """The data set of NumPy arrays or tensors. name: of the function that returned them, as --dataset has it.

    Inputs (n, ...) keep their shape. Bytes stay bytes, which the data set scales to [0, 1]; floats become float32, and
    other integers int64, such as tokens. Labels are integers from 0, (n,) or (n, T). Clients (n,) are integers or
    strings, numbered in their order. Raises DataError (exit 3).
    """
    try:
        arrays = keyed(made)
        x, y = inputs_of(arrays["x"], "x"), labels_of(arrays["y"], "y")
        checked(x, y, "x", "y")
        clients = clients_of(arrays["clients"], len(x)) if "clients" in arrays else None
        if "x_test" in arrays:
            train, test = (
                Split(x, y),
                Split(inputs_of(arrays["x_test"], "x_test"), labels_of(arrays["y_test"], "y_test")),
            )
            checked(test.examples, test.targets, "x_test", "y_test")
            compared(train, test)
        else:
            first = y.view(len(y), -1)[:, 0]
            rare = (torch.bincount(first) == 1).nonzero().flatten()
            if len(rare):
                raise ValueError(f"y: one example alone has the label {int(rare[0])}; expected two, one for the test")
            kept, aside = put_aside(first, test_fraction, seed, clients)
            if len(aside) == 0:
                raise ValueError("no example can be held out for the test; return x_test and y_test")
            train, test = Split(x[kept], y[kept]), Split(x[aside], y[aside])
            clients = None if clients is None else clients[kept]
        classes = int(y.max()) + 1  # of all of y, because with sequences some labels may be in held-out examples only
        if classes < 2:
            raise ValueError("y: all labels are 0; expected two classes or more")
        if train.targets.dim() == 1 and int(train.targets.min()) > 0:
            raise ValueError(f"y: labels begin at {int(train.targets.min())}; expected them to begin at 0")
    except ValueError as error:
        raise DataError(f"--dataset {name}: {error}") from None
    return Dataset(name, train, test, classes, source="arrays", clients=clients)


def keyed(made: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    """The arrays by their names in KEYS; those that are None are left out."""
    if isinstance(made, Mapping):
        arrays = {str(key): array for key, array in made.items() if array is not None}
    elif len(made) in (2, 4):
        arrays = dict(zip(KEYS, made, strict=False))
    else:
        raise ValueError(f"returned a tuple of {len(made)}; expected {SHAPES}")
    for key in arrays.keys() - KEYS:
        near = difflib.get_close_matches(key.lower(), KEYS, n=1)
        raise ValueError(f"returned {key!r}" + (f"; did you mean {near[0]}?" if near else f"; expected {SHAPES}"))
    for key, other in (("x", "y"), ("y", "x"), ("x_test", "y_test"), ("y_test", "x_test")):
        if key not in arrays and (key in ("x", "y") or other in arrays):
            raise ValueError(f"returned no {key}; expected {SHAPES}")
    return arrays


def tensor_of(value: Any, key: str) -> Tensor:
    """A tensor on the CPU, of a NumPy array's own memory where that can be. Raises ValueError for what is none."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if np.ma.isMaskedArray(value):
        raise ValueError(f"{key}: is a masked array, whose gaps would get lost; fill them, or leave those examples out")
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{key}: has the dtype {array.dtype}; expected numbers")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    if array.dtype.kind == "f" and array.dtype != np.float32:
        with np.errstate(over="ignore"):  # an infinity is found later
            array = array.astype(np.float32)
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def inputs_of(value: Any, key: str) -> Tensor:
    """(n, ...): bytes, float32 or int64. Raises ValueError for others and for numbers that are not finite."""
    x = tensor_of(value, key)
    if x.dim() < 2:
        raise ValueError(f"{key}: has the shape {tuple(x.shape)}; expected (examples, ...), such as (100, 8)")
    if x.dtype == torch.uint8:
        return x
    if x.is_complex():
        raise ValueError(f"{key}: has the dtype {x.dtype}; expected bytes, floats or integers")
    x = x.to(torch.float32 if x.is_floating_point() or x.dtype == torch.bool else torch.int64)
    if x.is_floating_point():
        odd = (~x.isfinite()).flatten(1).any(1)
        if odd.any():
            raise ValueError(f"{key}: example {int(odd.int().argmax())} has a NaN or an infinity; expected numbers")
    return x


def labels_of(value: Any, key: str) -> Tensor:
    """Labels as int64 (n,) or (n, T), 0 or more; in (n, T) all columns but the first may hold IGNORED.

    A column (n, 1), as data frames have it, becomes (n,). Raises ValueError for other dtypes, shapes or values.
    """
    y = tensor_of(value, key)
    if y.dim() == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.is_floating_point() or y.is_complex():
        raise ValueError(f"{key}: labels are no integers; expected integers from 0 to classes - 1")
    if y.dim() not in (1, 2):
        raise ValueError(f"{key}: has the shape {tuple(y.shape)}; expected (examples,)")
    counts = y.clone()
    if y.dim() == 2:
        counts[:, 1:][y[:, 1:] == IGNORED] = 0
    if y.numel() and not (int(counts.min()) >= 0 and int(counts.max()) < MOST_CLASSES):
        expected = f"expected 0 to classes - 1, which is below {MOST_CLASSES:,}"
        raise ValueError(f"{key}: labels go from {int(counts.min())} to {int(counts.max())}; {expected}")
    return y.to(torch.int64)


def clients_of(value: Any, n: int) -> Tensor:
    """(n,) int64: the index of each example's client."""
    whose = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    if whose.dtype == object and len({type(one) for one in whose.flat}) == 1 and isinstance(whose.flat[0], str | int):
        whose = np.array(whose.tolist())  # a column of a data frame
    if whose.shape != (n,) or whose.dtype.kind not in "iuUS":
        expected = f"expected an integer or a string for each of the {n} examples of x"
        raise ValueError(f"clients: has the shape {whose.shape} and the dtype {whose.dtype}; {expected}")
    return torch.from_numpy(np.unique(whose, return_inverse=True)[1].astype(np.int64))


def checked(x: Tensor, y: Tensor, of_x: str, of_y: str) -> None:
    if len(x) != len(y) or len(x) == 0 or x.numel() == 0:
        has = f"{of_x} has the shape {tuple(x.shape)}, {of_y} {len(y)} labels"
        raise ValueError(f"{has}; expected the same number of both, and at least one")


def compared(train: Split, test: Split) -> None:
    """Raises ValueError where the test examples are of another kind than the training examples."""
    for one, other, what in (
        (train.examples.shape[1:], test.examples.shape[1:], "examples of shape"),
        (train.examples.dtype, test.examples.dtype, "the dtype"),
        (train.targets.shape[1:], test.targets.shape[1:], "labels of shape"),
    ):
        if one != other:
            shown = [tuple(kind) if isinstance(kind, torch.Size) else kind for kind in (one, other)]
            raise ValueError(f"x_test and y_test: have {what} {shown[1]}; expected {shown[0]}, as x and y have")
    unknown = sorted(set(test.targets.unique().tolist()) - {*train.targets.unique().tolist(), IGNORED})
    if unknown:
        raise ValueError(f"y_test: has the label {unknown[0]}, which y has not; expected the labels of y")


def put_aside(labels: Tensor, fraction: float, seed: int, clients: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The indices of the training and of the held-out examples, each ascending; the seed draws which.

    `fraction` of each label is held out, at least one example and not all. labels: (n,) int64, each label at least
    twice. With clients, (n,) int64, one example of each client is first kept for training; a label of which nothing is
    left then has no test example. Each client gives its share of what is left of a label, to within one example.
    """
    whose = torch.zeros_like(labels) if clients is None else clients
    sizes = torch.bincount(labels)
    with seeded(seed, "test"):
        order = torch.randperm(len(labels))
        starts = torch.rand(len(sizes), dtype=torch.float64).tolist()
    order = order[whose[order].argsort(stable=True)]  # client after client, each one's examples shuffled
    if clients is not None:
        first = whose[order].diff(prepend=torch.tensor([-1])) != 0
        order = order[~first]
    order = order[labels[order].argsort(stable=True)]
    test = torch.zeros(len(labels), dtype=torch.bool)
    spare = order.split(torch.bincount(labels[order], minlength=len(sizes)).tolist())
    for size, start, rows in zip(sizes.tolist(), starts, spare, strict=True):
        count = min(max(round(fraction * size), 1), size - 1, len(rows))
        if count > 0:  # one out of every len(rows) / count, so that no client gives more than its share
            test[rows[(torch.arange(count) * len(rows) + int(start * len(rows))) // count]] = True
    return (~test).nonzero().flatten(), test.nonzero().flatten()
