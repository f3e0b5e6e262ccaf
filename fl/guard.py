"""Errors and signals: whatever happens, a script ends with an exit code and one line, not with a traceback."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from fl.errors import INTERRUPTED, DivergedError, FlagError, RunFolderError, RunnerError, out_of_memory, reason
from fl.signals import STOPPING, asked, held, interruptible
from fl.streams import complain, open_streams, silence

if TYPE_CHECKING:
    from fl.config import Config


def main(argv: Sequence[str] | None, script: str, description: str, train: Callable[[Config], None]) -> int:
    """The exit code of a training script: parse the flags, then train."""

    def work() -> None:
        # Imported only now, because signals are handled from here on, also during these slow imports.
        from fl.command_line import parse
        from fl.launch import check_launch
        from fl.names import USED

        USED.clear()  # an earlier run of this process, in a notebook, may have had other parts
        config = parse(sys.argv[1:] if argv is None else argv, script, description)
        check_launch(config, script)
        train(config)

    return guarded(f"run_{script}.py", work)


def guarded(name: str, work: Callable[[], None]) -> int:
    """Run `work` and turn what a user can cause into one line on stderr and an exit code."""
    open_streams()
    reserve = bytearray(16 << 20)  # so that there is memory for the last words when there is none left
    with interruptible():
        try:
            work()
            sys.stdout.flush()
            return 0
        except BaseException as error:
            del reserve
            with held():  # another Ctrl-C must not cut the last words short
                verdict = explain(error)
                if verdict is None:
                    raise
                code, text = verdict
                if text:
                    complain(f"{name}: {' '.join(text.split())}")
                    complain_of_own(error)
                return code


def explain(error: BaseException) -> tuple[int, str] | None:
    """The exit code and the line for what a user can cause; None for a fault of ours, which deserves its traceback."""
    if isinstance(error, RunnerError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, f"interrupted{''.join(map(str, error.args))}"
    if isinstance(error, BrokenPipeError):
        silence(sys.stdout)
        return INTERRUPTED, ""
    if any(isinstance(one, KeyboardInterrupt) for one in asked):
        return INTERRUPTED, "interrupted"  # something, such as an import, replaced KeyboardInterrupt by this error
    if not out_of_memory(error):
        from fl.names import blamed

        if own := blamed(error):
            return own.exit_code, str(own)
    if isinstance(error, OSError):
        silence(sys.stdout)
        return RunFolderError.exit_code, f"{error.filename or 'output'}: {reason(error)}"
    text = str(error)
    if isinstance(error, ImportError):
        return FlagError.exit_code, f"{text}; is it installed (sh requirements.sh), and is there memory enough?"
    if out_of_memory(error):
        advice = "lower --batch_size, --local_epoch or --num_clients, or choose a smaller --model"
        return FlagError.exit_code, f"out of memory ({' '.join(text.split())[:120]}); {advice}"
    if isinstance(error, RuntimeError) and "without overflow" in text:  # "value cannot be converted to type float"
        return DivergedError.exit_code, f"a number has left the range of float32 ({text}); use smaller rates"
    return None


def complain_of_own(error: BaseException) -> None:
    """The user's traceback, if it was code of their own that failed."""
    from fl.names import own_traceback

    if trace := own_traceback(error):
        complain(trace)


def leave(code: int) -> NoReturn:
    """End a script's process without Python's own shutdown, during which our signal handlers are gone already."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
