"""What a script says, to streams that may be closed, full, or without the characters."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress


def open_streams() -> None:
    """Open closed streams on the null device, and let stdout and stderr replace characters that their encoding lacks.

    Otherwise the next file that is opened would take the place of a closed stdout, and C code would write into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115
    codecs.register_error("plain", plain)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # not a text file of Python's own, or closed
            stream.reconfigure(errors="plain")  # type: ignore[union-attr]


def plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """What a stream without the character shows: ASCII's way to write it, or its number."""
    if isinstance(error, UnicodeEncodeError) and error.object[error.start] == "±":
        return "+-", error.start + 1
    return codecs.backslashreplace_errors(error)


heard = [True]  # whether this process prints warnings; workers do not, because rank 0 prints the same ones


def warn(text: object) -> None:
    """One line on stderr, which ends nothing."""
    if heard[0]:
        complain("warning: " + " ".join(str(text).split()))


def complain(line: str) -> None:
    """Print to stderr, if it takes anything."""
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        silence(sys.stderr)


def silence(stream: object) -> None:
    """Whoever read this stream has gone; without this Python complains again when it flushes at exit."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[attr-defined]
