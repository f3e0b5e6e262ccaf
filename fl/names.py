"""From a name to what it names: in the table of its flag, or in a file of the user's own. Imports no torch.

    --model 2nn                   fl/models/__init__.py says where it is
    --model my_model.py:MyNet     MyNet of that file, seen from the working directory; nothing of ours changes

A file of the user's own is run once. It can import its neighbours. Whatever goes wrong in it ends in one line that
names the flag, and then the user's own traceback.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType, ModuleType, TracebackType
from typing import Any, NoReturn

from fl.config import FLAGS, NAMES, Config, check_value, names_in
from fl.errors import RunFolderError, RunnerError, out_of_memory
from fl.flags.entry import Entry
from fl.flags.flag import file_and_name

USED: dict[str, list[tuple[str, str]]] = {}  # by a loaded file's absolute path, the flags and values that led to it
HASHES: dict[str, str] = {}  # the SHA-256 of each


def entry_of(flag: str, value: str) -> Entry:
    """The entry of that name; an Entry without any conditions if the name is not in the table."""
    entry = FLAGS[flag].metadata["kind"].table.get(value, "")
    return entry if isinstance(entry, Entry) else Entry(entry)


SHAPING = ("Federation", "Model and data")  # groups of flags from which data may follow


def is_own(flag: str, value: str) -> bool:
    """Whether the value is FILE.py:NAME."""
    return value not in FLAGS[flag].metadata["kind"].table


def named(flag: str, value: str) -> Any:
    """What the value of a flag such as --model names.

    Raises FlagError, or DataError for a data set, for a file of the user's own that fails or lacks the name.
    """
    if not is_own(flag, value):
        return pkgutil.resolve_name(entry_of(flag, value).target)
    file, name = file_and_name(value)
    path = os.path.abspath(file)
    with blaming(flag, value, "a file of Python that can be imported"):
        content = Path(path).read_bytes()
        USED.setdefault(path, [])
        if (flag, value) not in USED[path]:
            USED[path].append((flag, value))
        module = load(path, content)
    HASHES[path] = hashlib.sha256(content).hexdigest()
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, vars(module), n=1)
        refuse(flag, value, f"{file} has no {name}" + (f"; did you mean {near[0]}?" if near else ""))
    return getattr(module, name)


def made_of(value: str) -> tuple[str, ...]:
    """The flags of data and federation from which the examples of --dataset are generated; see Entry.made_of.

    A user-supplied function has them as arguments. Its file is executed to look at them. Raises as `named` does.
    """
    if not is_own("dataset", value):
        return entry_of("dataset", value).made_of
    function = named("dataset", value)
    with blaming("dataset", value, "a function whose arguments are known"):
        names = list(inspect.signature(function).parameters)[1:]
        return tuple(name for name in names if name in FLAGS and FLAGS[name].metadata["group"] in SHAPING)


@cache
def load(path: str, content: bytes) -> ModuleType:
    """The module of a file with that content, under a name that no other module has."""
    module = ModuleType(f"own_{Path(path).stem}_{hashlib.sha256(os.fsencode(path) + content).hexdigest()[:12]}")
    module.__file__ = path
    folder = os.path.dirname(path)
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that no neighbour hides a module of ours
    sys.modules[module.__name__] = module  # dataclasses look there
    try:
        exec(compile(content, path, "exec"), vars(module))
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def check_names(folder: str | Path, recorded: dict[str, Any], script: str) -> None:
    """Raise RunFolderError if a recorded name that `script` reads stands for nothing here."""
    for name in NAMES:
        if name in recorded and script in FLAGS[name].metadata["reads"]:
            try:
                for value in names_in(recorded[name]):
                    check_value(name, value)
            except RunnerError as error:
                raise RunFolderError(f"{Path(folder) / 'config.json'}: {error}") from None


def own_files(config: Config) -> dict[str, str]:
    """The SHA-256 of each file of the user's own that the flags name and this process has run."""
    files = {name.rpartition(":")[0] for flag in NAMES for name in names_in(getattr(config, flag))}
    return {file: HASHES[os.path.abspath(file)] for file in sorted(files) if os.path.abspath(file) in HASHES}


def refuse(flag: str, value: str, reason: str) -> NoReturn:
    """End the run with one line on what the value of the flag names. Raises FlagError, or DataError for a data set."""
    raise FLAGS[flag].metadata["kind"].fault(f"--{flag} {value}: {reason}")


@contextmanager
def blaming(flag: str, value: str, expected: str, own: bool | None = None) -> Iterator[None]:
    """Whatever the user's own code raises in here becomes one line that says what was expected of it.

    own: whether the code in the block is the user's; None: it is if the value is FILE.py:NAME.
    """
    try:
        yield
    except RunnerError:
        raise
    except (Exception, SystemExit) as error:
        if not (is_own(flag, value) if own is None else own) or out_of_memory(error):
            raise
        reason = f"--{flag} {value}: {describe(error)}; expected {expected}"
        raise FLAGS[flag].metadata["kind"].fault(reason) from error


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def blamed(error: BaseException) -> RunnerError | None:
    """The error to end with if `error` came from user-supplied code that the run called; None if it did not.

    Several flags may name objects of the same file. The error names the flag whose function or class raised, or all of
    them if that is not known. The user's model is also blamed for errors inside its layers, which may be PyTorch's.
    """
    frames = [frame for frame, _ in traceback.walk_tb(own_part(error)) if frame.f_code.co_filename in USED]
    if not frames:
        model, fault = own_model(error), FLAGS["model"].metadata["kind"].fault
        return fault(f"--model {model}: {describe(error)}") if model else None
    used = USED[frames[0].f_code.co_filename]
    roots = {_root(frame) for frame in frames}
    flags = [one for one in used if file_and_name(one[1])[1] in roots] or used
    words = ", ".join(f"--{flag} {value}" for flag, value in flags)
    fault = FLAGS[flags[0][0]].metadata["kind"].fault
    return fault(f"{words}: line {frames[-1].f_lineno}: {describe(error)}")


def _root(frame: FrameType) -> str:
    """The function or class of a module that the frame is in: MyNet for MyNet.forward, and for a function in that."""
    qualified = getattr(frame.f_code, "co_qualname", None)
    if qualified is None:  # Python 3.10 only knows "forward", but a method has its object at hand
        own = frame.f_locals.get("self")
        qualified = frame.f_code.co_name if own is None else type(own).__qualname__
    return str(qualified).split(".")[0]


def own_traceback(error: BaseException) -> str:
    """The traceback of what the user's own code raised, from their file on; nothing if it is not theirs."""
    cause = error.__cause__ if isinstance(error, RunnerError) else error
    if cause is None:
        return ""
    part = own_part(cause)
    if part is None and getattr(cause, "filename", None) not in USED:  # a SyntaxError knows its file
        return ""
    return "".join(traceback.format_exception(type(cause), cause, part)).rstrip()


def own_part(error: BaseException) -> TracebackType | None:
    """The traceback from the first file of the user's own on."""
    part = error.__traceback__
    while part is not None and part.tb_frame.f_code.co_filename not in USED:
        part = part.tb_next
    return part


def own_model(error: BaseException) -> str | None:
    """The last user-supplied model in use, if the error was raised inside a layer; otherwise None."""
    models = [value for uses in USED.values() for flag, value in uses if flag == "model"]
    calls = sys.modules.get("torch.nn.modules.module")  # the file that calls every layer
    frames = traceback.walk_tb(error.__traceback__)
    is_in_layer = calls is not None and any(frame.f_code.co_filename == calls.__file__ for frame, _ in frames)
    return models[-1] if models and is_in_layer else None
