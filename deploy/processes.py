"""Programs that are started together and end together, with all that they have started themselves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from fl.errors import FlagError, WorkerError
from fl.signals import LIBC, end_with

POLITE_SECONDS = 5.0  # that programs have to end by themselves
SHOWN = 6  # last lines of a program's log in a message


class Processes:
    """environment, home: of the commands that `run` runs."""

    def __init__(self) -> None:
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.logs: dict[str, Path] = {}
        self.environment: Mapping[str, str] = os.environ
        self.home = Path()

    def __enter__(self) -> Processes:
        _adopt_orphans(True)
        return self

    def start(self, name: str, command: Sequence[str], home: Path, environment: Mapping[str, str]) -> None:
        """Start a program in its folder; what it says goes to a file there. Ctrl-C reaches us alone."""
        self.logs[name] = home / "log"
        with self.logs[name].open("wb") as log:
            self.children[name] = subprocess.Popen(
                [found(command[0]), *command[1:]], cwd=home, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True, 
                # What the program has started ends in its turn, because Flower's programs watch their parents. Programs
                # must be started from the main thread: see end_with.
                preexec_fn=partial(end_with, os.getpid(), signal.SIGTERM) if LIBC else None,
            )  # fmt: skip

    def run(self, command: Sequence[str]) -> None:
        """Run a command to its end. Raises WorkerError with what it said if it fails."""
        done = subprocess.run(
            [found(command[0]), *command[1:]], cwd=self.home, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, start_new_session=True,
        )  # fmt: skip
        if done.returncode:
            raise WorkerError(f"{' '.join(command[:3])}: {' '.join((done.stdout + done.stderr).split())[-400:]}")

    def look_after(self, *names: str) -> None:
        """Raise WorkerError if one of these programs has ended."""
        for name in names:
            if (code := self.children[name].poll()) is not None:
                last = " / ".join(self.logs[name].read_text(errors="replace").split("\n")[-SHOWN:])
                raise WorkerError(f"the {name} ended with code {code}: {last[-400:]}")

    def __exit__(self, *exception: object) -> None:
        """End all programs, the last one first, and then all that they started, even if its own parent is gone."""
        family = descendants(os.getpid())
        for child in reversed(self.children.values()):
            with suppress(ProcessLookupError):
                child.terminate()
        deadline = time.monotonic() + POLITE_SECONDS
        while time.monotonic() < deadline and any(child.poll() is None for child in self.children.values()):
            time.sleep(0.05)
        for pid in family:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for child in self.children.values():
            child.wait()
        deadline = time.monotonic() + POLITE_SECONDS
        while time.monotonic() < deadline and running() & set(family):
            time.sleep(0.05)
        _adopt_orphans(False)


def _adopt_orphans(does: bool) -> None:
    """Make this process the parent of what its programs have started once they are killed. Only Linux can do that.

    Otherwise nobody would know whose they are, and they would stay.
    """
    if LIBC:
        PR_SET_CHILD_SUBREAPER = 36
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, int(does))


def end_with_parent() -> None:
    """End this process soon after its parent, because Flower's own way of doing so can hang in a request.

    It ends at once, as by kill -9, so a run goes on from its last checkpoint.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        time.sleep(POLITE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def found(program: str) -> str:
    """The program beside this Python, or the one on the path. Raises FlagError if it is not installed."""
    beside = Path(sys.executable).with_name(program)
    path = str(beside) if beside.exists() else shutil.which(program)
    if path is None:
        raise FlagError(f"{program}: is not installed; sh requirements.sh deploy")
    return path


def descendants(of: int) -> list[int]:
    """All processes that come from this one."""
    parents = [(pid, parent) for pid, parent, _ in processes()]
    family, grown = {of}, True
    while grown:
        more = {pid for pid, parent in parents if parent in family} - family
        family, grown = family | more, bool(more)
    return sorted(family - {of})


def running() -> set[int]:
    """All processes but those that have ended and wait for their parents to notice."""
    return {pid for pid, _, state in processes() if not state.startswith("Z")}


def processes() -> list[tuple[int, int, str]]:
    """Number, parent and state of every process, as `ps` sees them."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True).stdout
    return [(int(pid), int(parent), state) for pid, parent, state in map(str.split, table.splitlines())]
