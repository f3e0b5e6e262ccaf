"""The server prints into a file, and others follow it there.

A lock beside the file is held for as long as the server's process lives, however it dies. A second file gets its exit
code.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from fl.errors import WorkerError
from fl.records.files import lock, write_atomic

LOCK, CODE = ".lock", ".code"
LOOK_SECONDS, BEGIN_SECONDS = 0.2, 180.0


@contextmanager
def shown(screen: Path) -> Iterator[None]:
    """Send what this process prints to the file, and hold the lock beside it until the process ends."""
    unseen = beside(screen, ".unseen")
    lock(os.open(unseen, os.O_WRONLY | os.O_CREAT, 0o600), wait=False)  # never closed: the process holds it to its end
    unseen.rename(beside(screen, LOCK))  # held first, because a free lock means a dead server
    with screen.open("a", buffering=1) as lines, redirect_stdout(lines), redirect_stderr(lines):
        yield


def ended(screen: Path, code: int) -> None:
    write_atomic(beside(screen, CODE), f"{code}\n".encode())


def followed(screen: Path, look: Callable[[], None]) -> int:
    """Print what the server prints until it has ended, and return its exit code.

    look: called all the while; what it raises ends the wait. Raises WorkerError if the server dies without a code, or
    does not start.
    """
    path, code = beside(screen, LOCK), beside(screen, CODE)
    deadline = time.monotonic() + BEGIN_SECONDS
    with screen.open() as lines:
        while True:
            # Look at these two before the lines, because a server that is dead by now prints nothing more.
            is_dead = path.exists() and not is_held(path)
            is_over = code.exists()
            for line in lines:
                print(line, end="", flush=True)
            if is_over:
                return int(code.read_text())
            if is_dead:
                raise WorkerError("the program that trains on the server was killed")
            if not path.exists() and time.monotonic() > deadline:
                raise WorkerError(f"the program that trains has not started on the server within {BEGIN_SECONDS:g} s")
            look()
            time.sleep(LOOK_SECONDS)


def is_held(path: Path) -> bool:
    with path.open("wb") as file:
        try:
            lock(file.fileno(), wait=False)
        except BlockingIOError:
            return True
    return False


def beside(screen: Path, suffix: str) -> Path:
    return screen.with_name(screen.name + suffix)
