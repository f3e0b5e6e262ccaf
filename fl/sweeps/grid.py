"""The cells of a sweep: every combination of the values that --grid gives to flags. Imports no torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from itertools import product
from typing import Any, NamedTuple

from fl.check import is_read
from fl.command_line import expanded, parse, without
from fl.comparing.labels import exact, word
from fl.config import DEFAULTS, FLAGS, Config, check_value
from fl.errors import FlagError
from fl.flags.flag import SETS, SWITCH
from fl.streams import complain

OURS = ("seed", "run_dir", "out_dir", "name", "resume", "overwrite", "dry_run", "quiet")  # what the sweep sets itself
LONGEST = 200  # bytes of a folder's name


class Axis(NamedTuple):
    """A flag and its values: as they were typed, and what they mean."""

    name: str
    values: dict[str, Any]


class Cell(NamedTuple):
    """A combination. label: for tables. folder: its name on disk. flags: the whole command line, which means config."""

    label: str
    folder: str
    flags: list[str]
    config: Config


def cells_of(grids: Sequence[str], flags: Sequence[str]) -> list[Cell]:
    """The cells, in the order in which nested loops would go through them, every one with its flags checked.

    Raises FlagError as soon as the flags of one cannot be used. What there is to warn of is said once.
    """
    axes = [axis(text) for text in grids]
    names = [one.name for one in axes]
    for name in names:
        if names.count(name) > 1:
            raise FlagError(f"--grid {name}: is given twice; put all its values into one")
    words = without(names, expanded(flags))
    if asked := {"-h", "--help"} & set(words):
        raise FlagError(f"{asked.pop()}: does not go with a sweep; python3 run_federated.py --help lists the flags")
    told = io.StringIO()
    with redirect_stderr(told):
        cells = [cell(names, texts, axes, words) for texts in product(*(one.values for one in axes))]
    for text, name in zip(grids, names, strict=True):
        if not any(is_read(name, one.config, "federated") for one in cells):
            raise FlagError(f"--grid {text}: --{name} does nothing in any of these runs; leave it out")
    for line in dict.fromkeys(told.getvalue().splitlines()):
        complain(line)
    folders: dict[str, Cell] = {}
    for one in cells:
        if folders.setdefault(one.folder, one) is not one:
            raise FlagError(f"--grid: {one.label} and {folders[one.folder].label} would share a folder, {one.folder}")
    return cells


def axis(text: str) -> Axis:
    """NAME=VALUE,VALUE; between values that have commas themselves there are semicolons, and | between sets of labels.

    Raises FlagError.
    """
    name, sign, values = text.partition("=")
    if not sign or not values:
        raise FlagError(f"--grid {text}: expected FLAG=VALUE,VALUE, such as init_lr=0.05,0.1")
    if name not in FLAGS:
        raise FlagError(f"--grid {text}: there is no flag --{name}; python3 run_federated.py --help lists them all")
    if name in OURS:
        raise FlagError(f"--grid {text}: a sweep sets --{name} itself" + ("; see --seeds" if name == "seed" else ""))
    read = Axis(name, {})
    between = "|" if FLAGS[name].metadata["kind"] is SETS else ";" if ";" in values else ","
    for one in values.split(between):
        if not one:
            raise FlagError(f"--grid {text}: has an empty value; leave out the sign before or behind it")
        meant = switch(text, one) if FLAGS[name].metadata["kind"] is SWITCH else check_value(name, one)
        if meant in read.values.values():
            raise FlagError(f"--grid {text}: has {one} twice")
        read.values[one] = meant
    return read


def switch(text: str, value: str) -> bool:
    if value not in ("on", "off"):
        raise FlagError(f"--grid {text}: expected on or off")
    return value == "on"


def cell(names: Sequence[str], texts: Sequence[str], axes: Sequence[Axis], others: Sequence[str]) -> Cell:
    """The cell with these values. others: words that have none of these flags. Raises FlagError."""
    words, label, folder = list(others), [], []
    for name, text, one in zip(names, texts, axes, strict=True):
        value = one.values[text]
        if value is True or value is False:
            words += [f"--{name}"] if value else []
            label.append(word(name, value) or f"{name}=off")
        else:
            words.append(f"--{name}={text}")
            label.append(word(name, value, exact))
        folder.append(f"{name}={text if isinstance(value, bool) else value}")
    config = parse(words, "federated", "")
    for name in OURS:
        if getattr(config, name) != DEFAULTS[name]:
            raise FlagError(f"--{name} {getattr(config, name)}: a sweep sets this flag itself; leave it out")
    if config.engine in ("auto", "distributed") and not config.workers:
        words += ["--workers", "1"]  # every core has a run of its own
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "=.,+-_") else "_" for c in ",".join(folder))
    if len(kept) > LONGEST:
        raise FlagError(f"--grid: {kept[:40]}... is too long for a folder's name; sweep over fewer flags at once")
    return Cell(", ".join(label), kept, words, config)
