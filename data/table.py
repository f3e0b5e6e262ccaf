"""A table of your own, with one example per row: --dataset csv --data_dir FILE --label COLUMN.

Numbers are standardised, and what is no number becomes a column of zeros and ones for each category. All that is
learnt from the values, such as means and categories, is learnt from the training rows alone.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.arrays import put_aside
from data.columns import HEADER, MOST, Columns, Texts, header, parsed, read
from data.dataset import Dataset, Split
from data.schema import Schema, encoded, fit, in_order, learnt
from fl.errors import DataError, FlagError, reason

SHOWN = 12  # columns that a message names
WITH_COMMAS = re.compile(r"[+-]?\d+(,\d+)*(\.\d+)?")  # numbers as a spreadsheet writes them for people


class Rows(NamedTuple):
    """A table that has been read. columns: the inputs. classes, targets (n,): the label's values, and each row's place
    among them. whose (n,): each row's client, if the table says so. train, test: the indices of the rows.
    """

    columns: Columns
    classes: list[str]
    targets: Tensor
    whose: Tensor | None
    train: Tensor
    test: Tensor

    def learnt(self) -> Schema:
        train = self.train.numpy()
        return Schema(self.classes, {name: learnt(column, train) for name, column in self.columns.items()})


def table(
    data_dir: Path, label: str | None, client: str | None, drop: str | None, test_fraction: float, seed: int
) -> Dataset:
    """The rows of the file as float32 (n, F), and the values of the column `label` as classes, in their order.

    client: the column that says whose each row is, which is no input; drop: columns that are left out. Raises
    FlagError for a column that there is not, and DataError (exit 3) for what is wrong with the file.
    """
    rows = rows_of(data_dir, label, client, drop, test_fraction, seed)
    return dataset(data_dir, rows, rows.learnt())


def rows_of(
    data_dir: Path, label: str | None, client: str | None, drop: str | None, test_fraction: float, seed: int,
    is_part: bool = False,
) -> Rows:  # fmt: skip
    """is_part: of a larger table, whose other parts may have other classes. Raises as `table` does."""
    if data_dir.is_dir():
        raise DataError(f"--data_dir {data_dir}: is a folder; expected a file of comma-separated values")
    try:
        delimiter, names = header(data_dir)
        unread = dropped(drop)
        check_names(data_dir, names, label, client, unread)
        assert label is not None
        texts = [label] if client is None else [label, client]
        columns = read(data_dir, delimiter, names, texts, unread)
    except OSError as error:
        raise DataError(f"--data_dir {data_dir}: cannot be read ({reason(error)})") from None
    check_columns(data_dir, columns)
    targets, classes = classes_of(data_dir, label, columns, is_part)
    whose = None if client is None else torch.from_numpy(numbered(data_dir, "client", client, columns)[0])
    train, test = put_aside(targets, test_fraction, seed, whose)
    if len(test) == 0:
        raise DataError(f"{data_dir}: no row can be held out for a test, because each client of {client} has only one")
    for name in texts:
        del columns[name]
    return Rows(columns, classes, targets, whose, train, test)


def dataset(path: Path, rows: Rows, schema: Schema) -> Dataset:
    """The rows as inputs and classes. Raises DataError for a table that the schema does not fit."""
    fit(rows.columns, schema, path)
    place = {text: number for number, text in enumerate(schema.classes)}
    if unknown := set(rows.classes) - place.keys():
        raise DataError(f"{path}: has the class {min(unknown)!r}, which the other tables do not know of")
    targets = torch.tensor([place[text] for text in rows.classes])[rows.targets]
    examples = inputs(rows.columns, schema, [rows.train.numpy(), rows.test.numpy()])
    if examples[0].shape[1] == 0:
        raise DataError(f"{path}: no column is left for the inputs; expected others than the label and the client")
    return Dataset(
        "csv",
        Split(examples[0], targets[rows.train]),
        Split(examples[1], targets[rows.test]),
        classes=len(schema.classes),
        source=str(path),
        clients=None if rows.whose is None else rows.whose[rows.train],
    )


def check_columns(path: Path, columns: Columns) -> None:
    """Raises DataError for a table without rows, and for columns of names or the like."""
    if not any(column.parts for column in columns.values()):
        raise DataError(f"{path}: has a header and no rows; expected some")
    for name, column in columns.items():
        with_comma = next((text for text in column.texts if "," in text), None) if isinstance(column, Texts) else None
        if with_comma and all(map(WITH_COMMAS.fullmatch, column.texts)):  # type: ignore[union-attr]
            as_text = f"column {name} holds numbers with commas, such as {with_comma!r}"
            what = "write a point before decimals and nothing between thousands, or --drop the column"
            raise DataError(f"{path}: {as_text}; {what}")
    of_names = {name: column for name, column in columns.items() if isinstance(column, Texts) and column.is_name}
    if of_names:
        some = "; ".join(f"{name} (such as {column.texts[0]!r})" for name, column in list(of_names.items())[:SHOWN])
        limit = f"more than {MOST:,} texts, or more than half as many as rows"
        raise DataError(f"{path}: columns of {limit}: {some}; leave them out with --drop {written(of_names)}")


def classes_of(path: Path, label: str, columns: Columns, is_part: bool) -> tuple[Tensor, list[str]]:
    """(n,) int64: the class of each row; and the classes. Raises DataError for what cannot be learnt."""
    y, values = numbered(path, "label", label, columns)
    if len(values) < 2 and not is_part:
        raise DataError(f"{path}: column {label} holds {values[0]!r} alone; expected two classes or more")
    alone = np.flatnonzero(np.bincount(y) == 1)
    if len(alone):
        row = int(np.flatnonzero(y == alone[0])[0]) + 1 + HEADER
        which = f"row {row} alone has {values[alone[0]]!r} in column {label}"
        expected = "expected two rows or more of each class"
        if 2 * len(alone) > len(values) > 2:
            expected += "; to predict a number, make ranges of it first, because only classes can be learnt"
        raise DataError(f"{path}: {which} ({len(alone)} such values); {expected}")
    return torch.from_numpy(y), values


def dropped(drop: str | None) -> list[str]:
    """The names in --drop, which commas part; quotes hold together what has a comma of its own."""
    if drop is None:
        return []
    try:
        names = [name.strip() for name in next(csv.reader([drop], skipinitialspace=True, strict=True), [])]
    except csv.Error as error:
        raise FlagError(f"--drop {drop!a}: {error}; expected names of columns with commas between them") from None
    if not all(names) or not names:
        raise FlagError(f"--drop {drop!a}: expected names of columns with commas between them")
    return names


def written(names: Iterable[str]) -> str:
    """What --drop takes for these columns."""
    words = ",".join(f'"{name}"' if "," in name else name for name in names)
    return f"'{words}'" if set(words) & set(' "();&|<>*?$') else words


def check_names(path: Path, names: Sequence[str], label: str | None, client: str | None, unread: Sequence[str]) -> None:
    """Raises DataError for a header that is none, and FlagError for flags that name no column."""
    if not any(names):
        raise DataError(f"{path}: is empty; expected a row with the names of columns, and rows of values")
    if "" in names:
        number = names.index("") + 1
        raise DataError(f"{path}: column {number} has no name; give it one, and leave it out if it counts the rows")
    odd = next((name for name in names if not name.isprintable()), None)
    if odd is not None:
        raise DataError(f"{path}: a column is called {odd[:40]!r}; expected words")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: two columns are called {twice!r}; give each a name of its own")
    there = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    if label is None:
        raise FlagError(f"--dataset csv: needs --label, the column to predict; {path} has {there}")
    given = [("label", label), ("client", client), *(("drop", name) for name in unread)]
    for flag, name in given:
        if name is not None and name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            meant = f"did you mean {near[0]}?" if near else f"expected one of {there}"
            raise FlagError(f"--{flag} {name}: {path} has no such column; {meant}")
    columns = [name for _, name in given if name is not None]
    for flag, name in given[1:]:
        if name is not None and columns.count(name) > 1:
            raise FlagError(f"--{flag} {name}: is named twice among --label, --client and --drop; name it once")


def numbered(path: Path, flag: str, name: str, columns: Columns) -> tuple[np.ndarray, list[str]]:
    """(n,) int64: the place of each row's value among all values of the column, and these values in their order.

    That is the order of size if all are numbers, or else the alphabet's. Raises DataError for a row without a value.
    """
    column = columns[name]
    assert isinstance(column, Texts)
    codes, texts = column.codes, column.texts
    missing = np.flatnonzero(codes < 0)
    if len(missing):
        row = int(missing[0]) + 1 + HEADER
        raise DataError(f"{path}: row {row}: no value in column {name}, the --{flag} ({len(missing)} such rows)")
    ordered = in_order(texts)
    if np.isfinite(parsed(ordered)).all():
        numbers: dict[Decimal, str] = {}  # exact, because long ones may be names
        for text in ordered:
            if (one := numbers.setdefault(Decimal(text), text)) != text:
                raise DataError(
                    f"{path}: column {name} has {one!r} and {text!r}, which are one number; write them alike"
                )
    places = {text: number for number, text in enumerate(ordered)}
    return np.array([places[text] for text in texts], np.int64)[codes], ordered


def inputs(columns: Columns, schema: Schema, parts: Sequence[np.ndarray]) -> list[Tensor]:
    """(rows, F) float32 for each part, which is the indices of its rows. Columns stand in the schema's order."""
    blocks = [block for name, known in schema.columns.items() for block in encoded(columns[name], known)]
    if not blocks:
        return [torch.zeros(len(rows), 0) for rows in parts]
    made = [np.concatenate([block[rows] for block in blocks], axis=1, dtype=np.float32) for rows in parts]
    return [torch.from_numpy(array) for array in made]
