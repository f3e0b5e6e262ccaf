"""The columns of a table in a file of comma-separated values (RFC 4180), read a part at a time."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np

from fl.errors import DataError

DELIMITERS = ",;\t"
MISSING = frozenset(["", "?", "NA", "N/A", "NaN", "nan", "null", "NULL"])
LARGEST = 3.4e38  # above it a number has no float32
CELLS = 500_000  # read at once: it bounds the memory that their texts take
SAMPLE, ENOUGH = 1000, 100  # rows, and values among them, from which it is guessed which columns are text
MOST = 1000  # categories of a column
HEADER = 1  # rows are counted as a spreadsheet does: the header is row 1


class Numbers:
    """A column that seems to be of numbers. values (n,) float64: NaN where one is missing.

    given: how many are not missing; odd: how many of these are no numbers; first: the row and the text of the first.
    """

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.rows, self.given, self.odd = 0, 0, 0
        self.first = (0, "")

    def add(self, cells: Sequence[str]) -> None:
        numbers = parsed(cells)
        odd = np.abs(numbers) > LARGEST
        if odd.any():
            if not self.odd:
                at = int(odd.argmax())
                self.first = (self.rows + at + 1 + HEADER, cells[at])
            self.odd += int(odd.sum())
        self.parts.append(numbers)
        self.rows += len(cells)
        self.given += len(cells) - int(np.isnan(numbers).sum())

    @property
    def values(self) -> np.ndarray:
        return np.concatenate(self.parts)

    @property
    def is_text(self) -> bool:
        return are_texts(self.odd, self.given)


class Texts:
    """A column of categories. codes (n,) int64: for each row the index of its text in `texts`, -1 if it is missing."""

    def __init__(self, most: int | None):
        self.most = most
        self.parts: list[np.ndarray] = []
        self.places: dict[str, int] = {}  # of a cell as it stands in the file
        self.known: dict[str, int] = {}  # of a text

    def add(self, cells: Sequence[str]) -> None:
        if self.too_many:
            return
        for cell in set(cells) - self.places.keys():
            text = cell.strip()
            self.places[cell] = -1 if text in MISSING else self.known.setdefault(text, len(self.known))
        self.parts.append(np.fromiter(map(self.places.__getitem__, cells), np.int64, len(cells)))

    @property
    def texts(self) -> list[str]:
        return list(self.known)

    @property
    def is_text(self) -> bool:
        """Whether its values are no numbers indeed; not known of a column with too many texts."""
        if self.too_many:
            return False
        counts = np.bincount(self.codes[self.codes >= 0], minlength=len(self.known))
        return are_texts(int(counts[np.isinf(parsed(self.texts))].sum()), int(counts.sum()))

    @property
    def codes(self) -> np.ndarray:
        return np.concatenate(self.parts)

    @property
    def too_many(self) -> bool:
        return self.most is not None and len(self.known) > self.most

    @property
    def is_name(self) -> bool:
        """Whether it tells rows apart rather than groups them: too many texts, or more than half as many as rows."""
        return self.too_many or (self.most is not None and 2 * len(self.known) > sum(map(len, self.parts)))


Columns = dict[str, Numbers | Texts]


def are_texts(odd: int, given: int) -> bool:
    """Whether a column is text. odd: how many of its `given` values are not numbers.

    It is text if more than a tenth of the values are not numbers, or more than one value and more than 1 % of them.
    Fewer such values count as typing errors.
    """
    return odd > max(1, given // 100) or odd * 10 > given


def parsed(cells: Sequence[str]) -> np.ndarray:
    """(n,) float64: NaN for what is missing, infinity for what is no number."""
    if "_" not in "".join(cells):  # which Python would pass over: 1_0 is 10 to it
        with suppress(ValueError):
            return np.fromiter(map(float, cells), np.float64, len(cells))
        with suppress(ValueError):
            return np.fromiter([np.nan if cell in MISSING else float(cell) for cell in cells], np.float64, len(cells))
    return np.fromiter(map(number, cells), np.float64, len(cells))


def number(cell: str) -> float:
    text = cell.strip()
    if text in MISSING:
        return np.nan
    try:
        return np.inf if "_" in text else float(text)
    except ValueError:
        return np.inf


def header(path: Path) -> tuple[str, list[str]]:
    """The delimiter, and the names of the columns.

    It is the one that cuts the first row into most columns, of those that cut the second row into as many.
    """
    rows: dict[str, list[str]] = {}
    fits: dict[str, bool] = {}
    for delimiter in DELIMITERS:
        try:
            reader = rows_of(path, delimiter)
            rows[delimiter] = [name.strip() for name in next(reader, [])]
            fits[delimiter] = False
            with suppress(DataError):  # which is said when the row is read as one
                fits[delimiter] = len(next(reader, [])) == len(rows[delimiter]) > 1
        except DataError as error:  # quotes that stand beside another delimiter
            refused = error
    if not rows:
        raise refused
    # A comma may stand in the names of a file with semicolons; then the next row has another number of values.
    best = max(rows, key=lambda delimiter: (fits[delimiter], len(rows[delimiter])))
    return best, rows[best]


def read(path: Path, delimiter: str, names: Sequence[str], texts: Collection[str], unread: Collection[str]) -> Columns:
    """The columns but those `unread`, which may be of numbers or of text; `texts` are text whatever they hold.

    Raises DataError (exit 3) for rows that have more or fewer values than the header has names, and for a column of
    numbers with a few values that are none.
    """
    wanted = [name for name in names if name not in unread]
    sample = islice(parts(path, delimiter, len(names), SAMPLE), 1)
    found = text_columns(collected(sample, names, wanted, texts, set()), ENOUGH)
    looked_at: set[str] = set()
    while True:
        columns = collected(parts(path, delimiter, len(names)), names, wanted, texts, found)
        # The sample may mislead either way. Then all rows are read again, because the words of numbers are not kept.
        more = text_columns(columns)
        fewer = {name for name in found - looked_at if not columns[name].is_text}
        if not (more or fewer):
            break
        looked_at |= fewer
        found = (found | more) - fewer
    for name, column in columns.items():
        if isinstance(column, Numbers) and column.odd:
            row, text = column.first
            raise DataError(
                f"{path}: row {row}: {text!r} in column {name}, which otherwise holds numbers; "
                f"correct it, leave it empty, or leave the column out with --drop"
            )
    return columns


def text_columns(columns: Columns, least: int = 1) -> set[str]:
    """The columns with at least `least` known values, of which too many are no numbers for a column of numbers."""
    numbers = {name: column for name, column in columns.items() if isinstance(column, Numbers)}
    return {name for name, column in numbers.items() if column.given >= least and column.is_text}


def collected(
    rows: Iterator[list[list[str]]],
    names: Sequence[str],
    wanted: Collection[str],
    texts: Collection[str],
    found: Collection[str],
) -> Columns:
    """One pass over the rows."""
    columns: Columns = {}
    for name in wanted:
        columns[name] = Texts(None) if name in texts else Texts(MOST) if name in found else Numbers()
    for part in rows:
        for name, cells in zip(names, zip(*part, strict=True), strict=True):
            if name in columns:
                columns[name].add(cells)
    return columns


def parts(path: Path, delimiter: str, width: int, most: int | None = None) -> Iterator[list[list[str]]]:
    """The rows below the header, many at a time. Blank lines at the end are passed over."""
    reader = rows_of(path, delimiter)
    next(reader)
    row = 1 + HEADER
    while part := list(islice(reader, most or max(1, CELLS // width))):
        widths = list(map(len, part))
        if set(widths) != {width}:
            at = next(i for i, found in enumerate(widths) if found != width)
            if widths[at] or any(part[at:]) or any(reader):
                raise DataError(f"{path}: row {row + at}: has {widths[at]} values; the header has {width} columns")
            part = part[:at]
        if part:
            yield part
        row += len(part)


def rows_of(path: Path, delimiter: str) -> Iterator[list[str]]:
    """Raises DataError for what is no text in UTF-8 or breaks the rules of quoting."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            yield from reader
        except csv.Error as error:
            raise DataError(f"{path}: line {reader.line_num}: {error}; expected comma-separated values") from None
        except UnicodeDecodeError as error:
            wrong = f"byte {error.object[error.start]:#04x} after line {reader.line_num}"
            raise DataError(f"{path}: is not UTF-8 ({wrong}); save it as UTF-8") from None
