"""Read JSON that a run wrote, from files that anyone may have changed since."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from typing import Any, NoReturn

TOO_LARGE = 2**63  # what a run counts is below


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file. Raises OSError, also for a FIFO or a device, at which a reader may wait for ever."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.read_bytes()


def loads(content: bytes) -> Any:
    """The value of a JSON text in UTF-8, in which every number is finite and every integer is below 2^63.

    Raises ValueError for anything else. Python's own reader takes NaN, Infinity and 1e999, builds integers that it
    cannot print, and raises RecursionError for deep nesting.
    """
    try:
        return json.loads(content.decode("utf-8"), parse_int=_integer, parse_float=_finite, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) >= TOO_LARGE:
        raise ValueError(f"{_short(digits)} is too large a number")
    return int(digits)


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{_short(text)} is too large a number")
    return float(text)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that JSON has")


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:20]}..."
