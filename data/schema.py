"""What is learnt from the training rows of a table: classes, means, categories. It turns columns into inputs.

If a table is spread over several places that do not show each other their rows, each place learns a Schema from its own
rows. `merged` combines these into one Schema that all places then use, so that an input means the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data.columns import Columns, Numbers, Texts, parsed
from fl.errors import DataError


class Learnt(NamedTuple):
    """Of one column. texts: its categories, in alphabetical order; None if it is one of numbers.

    known: the number of values from which mean and deviation (the standard deviation) were computed. missing: whether a
    value is missing in a training row.
    """

    texts: list[str] | None
    known: int
    mean: float
    deviation: float
    missing: bool


class Schema(NamedTuple):
    """classes: the label's values, in their order. columns: the inputs, by name."""

    classes: list[str]
    columns: dict[str, Learnt]


def learnt(column: Numbers | Texts, train: np.ndarray) -> Learnt:
    """From the rows `train`."""
    if isinstance(column, Numbers):
        values = column.values[train]
        known = values[~np.isnan(values)]
        mean, deviation = (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)
        # The computed mean of equal numbers may be rounded, and then their standard deviation would not be 0.
        if len(known) and known.min() == known.max():
            mean, deviation = float(known[0]), 0.0
        return Learnt(None, len(known), mean, deviation, len(known) < len(values))
    codes = column.codes[train]
    texts = sorted(column.texts[code] for code in np.unique(codes) if code >= 0)
    return Learnt(texts, 0, 0.0, 0.0, bool((codes < 0).any()))


def encoded(column: Numbers | Texts, known: Learnt) -> list[np.ndarray]:
    """The input columns for one column of the table, for all n rows: arrays (n, k).

    A number becomes (x - mean) / standard deviation, and 0 (that is the mean) if it is missing. A text becomes a one in
    the column of its category; a text that is no known category becomes zeros. If a value is missing in some training
    row, one more column says in which rows it is missing.
    """
    if isinstance(column, Numbers) and known.texts is not None:  # it has no values here, and texts elsewhere
        missing = np.isnan(column.values)
        made = [np.zeros((len(missing), len(known.texts)), dtype=bool)]
    elif isinstance(column, Numbers):
        missing = np.isnan(column.values)
        block = ((column.values - known.mean) / (known.deviation or 1.0)).astype(np.float32)
        block[missing] = 0
        made = [block[:, None]]
    else:
        missing = column.codes < 0
        place = {text: code for code, text in enumerate(column.texts)}
        made = [column.codes[:, None] == np.array([place.get(text, -2) for text in known.texts or ()], dtype=np.int64)]
    return [*made, missing[:, None]] if known.missing else made


def in_order(texts: Sequence[str]) -> list[str]:
    """By size if all are numbers, or else by the alphabet."""
    sizes = parsed(texts)
    by_size = bool(np.isfinite(sizes).all())
    return [texts[i] for i in sorted(range(len(texts)), key=lambda i: (sizes[i] if by_size else 0, texts[i]))]


def fit(columns: Columns, schema: Schema, where: object) -> None:
    """Raise DataError for a table that has other columns than the schema, or a column of another kind."""
    if columns.keys() != schema.columns.keys():
        odd = ", ".join(sorted(columns.keys() ^ schema.columns.keys()))
        raise DataError(f"{where}: has other columns than the other tables: {odd}")
    for name, column in columns.items():
        is_empty = isinstance(column, Numbers) and column.given == 0
        if isinstance(column, Texts) == (schema.columns[name].texts is None) and not is_empty:
            raise DataError(f"{where}: column {name} is one of numbers in one table, and of text in another")


def merged(schemas: Sequence[Schema]) -> Schema:
    """What was learnt in several places, as if it had been learnt in one, up to the rounding of sums.

    Raises DataError for tables that do not fit together.
    """
    first = schemas[0]
    for number, schema in enumerate(schemas):
        if schema.columns.keys() != first.columns.keys():
            odd = ", ".join(sorted(schema.columns.keys() ^ first.columns.keys()))
            raise DataError(f"table {number}: has other columns than table 0: {odd}")
    columns = {name: _together(name, [schema.columns[name] for schema in schemas]) for name in first.columns}
    return Schema(in_order(sorted({text for schema in schemas for text in schema.classes})), columns)


def _together(name: str, parts: Sequence[Learnt]) -> Learnt:
    missing = any(part.missing for part in parts)
    telling = [part for part in parts if part.texts is not None or part.known]  # a column without values may be either
    if len({part.texts is None for part in telling}) > 1:
        raise DataError(f"column {name} is one of numbers in one table, and of text in another")
    if telling and telling[0].texts is not None:
        return Learnt(sorted({text for part in parts for text in part.texts or ()}), 0, 0.0, 0.0, missing)
    n = sum(part.known for part in parts)
    if n == 0:
        return Learnt(None, 0, 0.0, 0.0, missing)
    means = {part.mean for part in parts if part.known}
    if len(means) == 1 and not any(part.deviation for part in parts):
        return Learnt(None, n, means.pop(), 0.0, missing)
    mean = sum(part.known * part.mean for part in parts) / n
    variance = sum(part.known * (part.deviation**2 + (part.mean - mean) ** 2) for part in parts) / n
    return Learnt(None, n, mean, math.sqrt(variance), missing)


def plain(schema: Schema) -> dict[str, Any]:
    """As words, numbers, lists and dicts."""
    return {"classes": schema.classes, "columns": {name: list(one) for name, one in schema.columns.items()}}


def from_plain(words: Mapping[str, Any]) -> Schema:
    """Raises DataError for what `plain` did not make."""
    try:
        classes = [str(text) for text in words["classes"]]
        columns = {str(name): _checked(*one) for name, one in words["columns"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError("what another table has learnt is malformed") from None
    return Schema(classes, columns)


def _checked(texts: Any, known: Any, mean: Any, deviation: Any, missing: Any) -> Learnt:
    whole = Learnt(texts and [str(text) for text in texts], int(known), float(mean), float(deviation), bool(missing))
    if whole.known < 0 or not math.isfinite(whole.mean) or not 0 <= whole.deviation < math.inf:
        raise ValueError(whole)
    return whole
