"""The command lines of the scripts that train nothing themselves, such as compare.py and sweep.py."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from fl.errors import FlagError


class Words(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        hint = "; flags of run_federated.py go after --" if "run_federated.py" in (self.usage or "") else ""
        unknown = message.startswith("unrecognized arguments")
        raise FlagError(message.removeprefix("argument ") + hint * unknown)


def count(flag: str, text: str, most: int = 10_000) -> int:
    """A positive number. Raises FlagError."""
    if not (text.isdecimal() and text.isascii() and len(text) < 10 and 0 < int(text) <= most):
        raise FlagError(f"{flag} {text}: expected an integer from 1 to {most:,}")
    return int(text)


def destination(flag: str, text: str) -> Path:
    """The folder of a flag, which need not be there yet. Raises FlagError."""
    folder = Path(text)
    if not text.strip():
        raise FlagError(f"{flag} '': expected a folder's name")
    if folder.exists() and not folder.is_dir():
        raise FlagError(f"{flag} {folder}: is not a folder; choose another name")
    if (folder / "config.json").exists():
        raise FlagError(f"{flag} {folder}: is the folder of a run, whose files would be replaced; choose another name")
    return folder


def several(n: int, thing: str) -> str:
    """ "1 run", "1,200 rounds"."""
    return f"{n:,} {thing}" + ("" if n == 1 else "s")
