"""Signals: Ctrl-C and its kin end a run in good order, at any moment, and never tear a round's record apart."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Ctrl-C, what schedulers send, and what a terminal sends when it closes. Windows has no SIGHUP.
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

# Loaded here and not in a new process, where loading is not safe. Linux alone tells a process that its parent is gone.
LIBC: Any = ctypes.CDLL(None) if sys.platform == "linux" else None

asked: list[BaseException] = []  # what signals have raised, or will raise once `held` is over
holding = 0  # how many `held` blocks we are in


@contextmanager
def handled(numbers: list[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """`handler` for these signals while inside, except for those that whoever started us, such as nohup, ignores."""
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers in the main thread only
        yield
        return
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def strike(error: BaseException) -> None:
    """Raise `error` from a signal's handler: now, or at the end of the `held` block that we are in.

    It is remembered in either case, because Python drops an exception that is raised in a destructor.
    """
    asked.append(error)
    if not holding:
        raise error


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt while inside."""
    asked.clear()
    with handled(STOPPING, lambda number, frame: strike(KeyboardInterrupt())):
        yield


def obey() -> None:
    """Raise what a signal asked for, if anything: its own exception may have been lost."""
    if asked:
        raise asked[0]


@contextmanager
def held() -> Iterator[None]:
    """Signals wait until the block is done; whoever uses it calls `obey` when it is time."""
    global holding
    holding += 1
    try:
        yield
    finally:
        holding -= 1


@contextmanager
def without_terminal() -> Iterator[None]:
    """Processes that are started in here hear neither Ctrl-C nor a terminal that closes.

    Both reach every process of a terminal, but the one that starts others decides what follows. A new process inherits
    which signals are blocked.
    """
    blocked = {getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals wait until the block is done, and are obeyed then: a round's line and its checkpoint belong together."""
    with held():
        yield
    obey()


def end_with(parent: int, number: int) -> None:
    """Have this new process get the signal `number` when `parent`, the process that started it, ends.

    Linux takes the end of the thread that started it for the end of the process. Elsewhere this does nothing.
    """
    if LIBC:
        PR_SET_PDEATHSIG = 1
        LIBC.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)
