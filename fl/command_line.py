"""From the words of a command line to a Config: argparse, presets, and errors of one line."""

from __future__ import annotations

import argparse
import difflib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from fl.advice import advice
from fl.check import LATEST, check, defaults_of, readers_of, resolve
from fl.config import DEFAULTS, FLAGS, RESUMABLE, Config, check_value
from fl.config_file import read_config
from fl.errors import FlagError, RunFolderError, reason
from fl.flags.flag import ANEW, SWITCH, listed
from fl.names import check_names
from fl.streams import warn


def parse(argv: Sequence[str], script: str, description: str) -> Config:
    """Flags of `script` ("federated" or "baseline") to a resolved Config.

    Raises FlagError with one line that names the flag, the value and what is accepted.
    """
    words, rest = _parser(f"run_{script}.py", description).parse_known_args(expanded(argv))
    if rest:
        raise FlagError(_unknown(rest[0]))
    given = {name: check_value(name, _as_typed(text)) for name, text in vars(words).items()}
    if given.get("resume") and "run_dir" in given and (Path(given["run_dir"]) / "config.json").exists():
        return _resumed(given, script)
    config = resolve(given, script)
    for text in advice(config, given, script):
        warn(text)
    return config


def expanded(argv: Sequence[str]) -> list[str]:
    """The words with presets in place of every @FILE. What does not begin with -- belongs to the flag before it.

    Raises FlagError for a preset that cannot be read.
    """
    return _attach(_expand(argv))


def without(names: Sequence[str], words: Sequence[str]) -> list[str]:
    """The words but for these flags and their values, so that a switch can be off and a repeatable flag begins anew."""
    kept, takes_value = [], False
    for one in words:
        if takes_value and not one.startswith("--"):
            takes_value = False
            continue
        name, sign, _ = one[2:].partition("=")
        is_ours = one.startswith("--") and name in names
        takes_value = is_ours and not sign and FLAGS[name].metadata["kind"] is not SWITCH
        if not is_ours:
            kept.append(one)
    return kept


def _as_typed(text: Any) -> Any:
    """The text of a flag, or the texts of a repeatable one. Before Python 3.13 argparse returns [] for `--flag=--`."""
    if isinstance(text, list):
        return [_as_typed(one) for one in text] if text else "--"
    return text


def _resumed(given: dict[str, Any], script: str) -> Config:
    """The recorded flags, with those of `given` that a resumed run may change."""
    folder = given["run_dir"]
    recorded = read_config(folder)
    if recorded.pop("script") != script:
        raise RunFolderError(f"--run_dir {folder}: holds a run of the other script")
    check_names(folder, recorded, script)
    if given.get("match") == LATEST and recorded["match"] is not None:
        given = given | {"match": recorded["match"]}  # another run may be the latest by now
    for name, value in given.items():
        if name not in RESUMABLE and value != recorded[name]:
            raise FlagError(
                f"--{name} {value}: the run in {folder} has {recorded[name]}; "
                "leave the flag out to continue it, or choose another --run_dir"
            )
    anew = {name: given.get(name, DEFAULTS[name]) for name in FLAGS if FLAGS[name].metadata["resume"] == ANEW}
    config = Config(**(recorded | given | anew))
    check(config, given, is_begun=True)
    return config


class _Parser(argparse.ArgumentParser):
    """argparse for the tokens and the help text; values are checked here, so that every error is one line."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("argument "):
            message = message.removeprefix("argument ").replace(": expected", ": no value given; expected", 1)
        raise FlagError(message)


# What people who come from other tools type first.
SYNONYMS = {
    "lr": "init_lr", "learning_rate": "init_lr", "rounds": "global_epoch", "num_rounds": "global_epoch",
    "epochs": "epoch", "local_epochs": "local_epoch", "bs": "batch_size", "clients": "num_clients",
    "fraction": "client_fraction", "gpu": "device", "opt": "optimizer", "data": "dataset", "output_dir": "out_dir",
}  # fmt: skip


def _unknown(word: str) -> str:
    name = word.split("=")[0]
    if not name.startswith("-"):
        return f"{word or repr(word)}: a value without a flag; every setting is --flag value"
    said = name.lstrip("-").replace("-", "_")
    near = [SYNONYMS[said]] if said in SYNONYMS else difflib.get_close_matches(said, FLAGS, n=1)
    return f"{name}: no such flag" + (f"; did you mean --{near[0]}?" if near else "; --help lists them all")


def _help(name: str) -> str:
    """The flag's line in --help: whose flag it is, what it accepts, and its defaults."""
    field, kind = FLAGS[name], FLAGS[name].metadata["kind"]
    tables = readers_of(name)
    defaults = [f"{DEFAULTS[name]:g}" if isinstance(DEFAULTS[name], float) else f"{DEFAULTS[name]}"]
    if DEFAULTS[name] is None or DEFAULTS[name] is False or DEFAULTS[name] == ():
        defaults = []
    defaults += [f"{default:g} for {one}" for one, default in defaults_of(name).items()]
    parts = [
        field.metadata["help"],
        *(f"; for --{table} {listed(readers)}" for table, readers in tables.items()),
        f": {kind.accepts}" if kind.metavar == "NAME" else "",
        f" (default: {', '.join(defaults)})" if defaults else "",
    ]
    return "".join(parts).replace("%", "%%")


def _parser(prog: str, description: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        usage="%(prog)s [@PRESET] [--flag value ...]",
        description=description,
        epilog="@PRESET reads flags from a file, such as those in configs/; flags after it win.",
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=110),
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, field in FLAGS.items():
        meta = field.metadata
        if meta["group"] not in groups:
            groups[meta["group"]] = parser.add_argument_group(meta["group"])
        group = groups[meta["group"]]
        if meta["kind"] is SWITCH:
            group.add_argument(f"--{name}", action="store_true", default=argparse.SUPPRESS, help=_help(name))
        else:
            group.add_argument(
                f"--{name}",
                action="append" if meta["many"] else "store",
                default=argparse.SUPPRESS,
                metavar=meta["kind"].metavar,
                help=_help(name),
            )
    return parser


def _expand(argv: Sequence[str], depth: int = 0) -> list[str]:
    """Replace every @FILE by the words in it; `#` starts a comment. Raises FlagError."""
    words: list[str] = []
    for word in argv:
        if not word.startswith("@"):
            words.append(word)
            continue
        if depth == 8:
            raise FlagError(f"{word}: presets are nested more than eight deep")
        try:
            # Windows' editors put a byte-order mark first.
            preset = _split(Path(word[1:]).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise FlagError(f"{word}: cannot be read as a preset ({reason(error)}); expected a file of flags") from None
        words += _expand(preset, depth + 1)
    return words


def _split(text: str) -> list[str]:
    """The words of a preset. Quotes keep a word together. A backslash is an ordinary character, as in Windows paths."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split = True
    lexer.escape = ""
    return list(lexer)


def _attach(words: Sequence[str]) -> list[str]:
    """`--flag -1` as `--flag=-1`: argparse would take a value that begins with a dash for a flag."""
    attached: list[str] = []
    for word in words:
        name = attached[-1][2:] if attached and attached[-1].startswith("--") else ""
        takes_value = name in FLAGS and FLAGS[name].metadata["kind"] is not SWITCH
        if takes_value and word.startswith("-") and not word.startswith("--"):
            attached[-1] += f"={word}"
        else:
            attached.append(word)
    return attached
