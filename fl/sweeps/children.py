"""Runs as processes of their own, several at a time, of which none is left behind. Imports no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fl.errors import DivergedError, RunFolderError, RunnerError, WorkerError, reason
from fl.launch import VARIABLES
from fl.signals import LIBC, end_with, held, uninterrupted, without_terminal

SCRIPT = Path(__file__).parents[2] / "run_federated.py"
SECONDS_TO_STOP = 60.0  # for a checkpoint; it takes one round's write at most
SECONDS_BETWEEN_LOOKS = 0.1
STARTED = "== started"  # how a start is marked in a run's log, which keeps what was said before


class Job(NamedTuple):
    """A run to start or to go on with: its folder, all its flags, and how many rounds it has at most."""

    folder: Path
    flags: list[str]
    rounds: int

    @property
    def log(self) -> Path:
        """What the run says. It lies beside the folder, because a folder with a stranger's file is no run's."""
        return self.folder.with_name(f"{self.folder.name}.log")


class ChildError(RunnerError):
    """A run has failed: its own line and its own exit code."""

    def __init__(self, text: str, exit_code: int):
        super().__init__(text)
        self.exit_code = exit_code


def ended(jobs: Sequence[Job], most: int, look: Callable[[Sequence[Job]], None]) -> Generator[tuple[Job, int]]:
    """Run the jobs, at most `most` at once, and yield each at its end with its exit code: 0, or 5 if it diverged.

    look(running): called every tenth of a second. However this generator is left, every process has ended by then;
    those that were training have written their checkpoints. Raises ChildError for any other exit code.
    """
    waiting, running = list(reversed(jobs)), dict[subprocess.Popen[bytes], Job]()
    try:
        while waiting or running:
            while waiting and len(running) < most:
                with uninterrupted():  # a process that nobody knows of would be left behind
                    job = waiting.pop()
                    running[start(job)] = job
            for child, job in list(running.items()):
                code = child.poll()
                if code is None:
                    continue
                del running[child]
                if code not in (0, DivergedError.exit_code):
                    raise failure(job, code)
                yield job, code
            look(list(running.values()))
            if running:
                time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        stop(list(running))


def start(job: Job) -> subprocess.Popen[bytes]:
    """Start the run on one thread. Raises RunFolderError if there is no place for its log, or no process for it."""
    try:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log, without_terminal():  # after what it said when it was started before
            log.write(f"{STARTED} {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
            log.flush()
            return subprocess.Popen(
                [sys.executable, str(SCRIPT), *job.flags, "--run_dir", str(job.folder), "--resume"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=alone(),
                # It writes its checkpoint, and then ends, if this process is killed.
                preexec_fn=partial(end_with, os.getpid(), signal.SIGTERM) if LIBC else None,
            )  # fmt: skip
    except OSError as error:
        raise RunFolderError(f"{error.filename or job.folder}: {reason(error)}") from None


def alone() -> dict[str, str]:
    """The environment of a run: one thread, and none of the variables by which a launcher would make it part of a job.

    A launcher may have set them for this process, even where it is the only one.
    """
    return {name: value for name, value in os.environ.items() if name not in VARIABLES} | {"OMP_NUM_THREADS": "1"}


def stop(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """End these processes: each writes its checkpoint first, if it is not too slow for that."""
    with held():  # another Ctrl-C must not leave one of them behind
        for child in children:
            with suppress(OSError):
                child.terminate()
        deadline = time.monotonic() + SECONDS_TO_STOP
        for child in children:
            try:
                child.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def failure(job: Job, code: int) -> RunnerError:
    """What to say of a run that failed."""
    again = f"{job.log} has all it said; what is finished counts when you give the command again"
    if code < 0:
        return WorkerError(f"{job.folder}: was killed by signal {-code}; {again}")
    return ChildError(f"{last_words(job)} ({again})", code)


def last_words(job: Job) -> str:
    """The line with which the run ended, of what it said since its last start."""
    with suppress(OSError):
        since = job.log.read_text(errors="replace").rpartition(STARTED)[2].splitlines()[1:]
        lines = [line for line in since if line.strip()]
        own = [line for line in lines if line.startswith(f"{SCRIPT.name}: ")]
        if lines:
            return (own or lines)[-1].removeprefix(f"{SCRIPT.name}: ")
    return f"{job.folder}: failed and said nothing"
