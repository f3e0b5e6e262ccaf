"""The file in which the server writes what it prints, and what beside it tells a reader how the server ended.

A lock is held for as long as the server's process lives, however it dies, and at last there is its exit code.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from fl.errors import WorkerError
from fl.files import lock, write_atomic

LOCK, CODE = ".lock", ".code"
POLL_SECONDS, START_SECONDS = 0.2, 180.0


@contextmanager
def shown(screen: Path) -> Iterator[None]:
    """Send what this process prints to the file. Whoever reads it can tell that the process is alive, until it ends."""
    unseen = screen.with_suffix(".unseen")
    lock(os.open(unseen, os.O_WRONLY | os.O_CREAT, 0o600), wait=False)  # never closed: the process holds it to its end
    unseen.rename(screen.with_suffix(LOCK))  # held first, because a free lock means a dead server
    with screen.open("a", buffering=1) as lines, redirect_stdout(lines), redirect_stderr(lines):
        yield


def ended(screen: Path, code: int) -> None:
    write_atomic(screen.with_suffix(CODE), f"{code}\n".encode())


def followed(screen: Path, look: Callable[[], None]) -> int:
    """Print what the server prints until it has ended, and return its exit code.

    look: called all the while; what it raises ends the wait. Raises WorkerError if the server dies without a code, or
    does not start.
    """
    path, code = screen.with_suffix(LOCK), screen.with_suffix(CODE)
    deadline = time.monotonic() + START_SECONDS
    with screen.open() as lines:
        while True:
            # First come these two, because a server that dies now has printed and written all that it ever will.
            is_dead = path.exists() and not is_held(path)
            is_over = code.exists()
            for line in lines:
                print(line, end="", flush=True)
            if is_over:
                return int(code.read_text())
            if is_dead:
                raise WorkerError("the program that trains on the server was killed")
            if not path.exists() and time.monotonic() > deadline:
                raise WorkerError(f"the program that trains has not started on the server within {START_SECONDS:g} s")
            look()
            time.sleep(POLL_SECONDS)


def is_held(path: Path) -> bool:
    with path.open("wb") as file:
        try:
            lock(file.fileno(), wait=False)
        except BlockingIOError:
            return True
    return False
