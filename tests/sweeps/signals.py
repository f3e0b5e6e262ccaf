"""Ctrl-C, SIGTERM, SIGHUP and kill -9 at any moment of a run of two workers, which is then resumed."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import NamedTuple

from tests.sweeps import SMALL, begin, members, sha256

WITHIN_SECONDS = 5.0  # to end after a signal


class Outcome(NamedTuple):
    code: int
    err: str
    seconds: float  # from the signal to the end


TWO_WORKERS = [*SMALL, "--model", "small_cnn", "--global_epoch", "12", "--engine", "distributed", "--workers", "2"]
BLOWS = ("Ctrl-C", "SIGTERM", "SIGHUP", "kill -9", "kill -9 of the worker", "Ctrl-C while the worker is stopped")


def struck(argv: list[str], temporary: Path, blow: str, moment: float) -> Outcome:
    """Start a run, strike after `moment` seconds, and wait for its end."""
    process = begin(argv, temporary)
    time.sleep(moment)
    workers = [pid for pid in members(process.pid) if pid != process.pid]
    began = time.monotonic()
    try:
        if blow == "kill -9 of the worker":
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
        elif blow.startswith("Ctrl-C"):
            if "stopped" in blow:
                for pid in workers:
                    os.kill(pid, signal.SIGSTOP)
                time.sleep(0.3)
            os.killpg(process.pid, signal.SIGINT)  # a terminal's goes to all of its processes
        else:
            number = {"SIGTERM": signal.SIGTERM, "SIGHUP": signal.SIGHUP, "kill -9": signal.SIGKILL}[blow]
            process.send_signal(number)
    except ProcessLookupError:  # it has ended by itself
        pass
    _, err = process.communicate(timeout=120)
    seconds = time.monotonic() - began
    while members(process.pid) and time.monotonic() - began < WITHIN_SECONDS:
        time.sleep(0.02)
    return Outcome(process.returncode, err, seconds)


def one_signal(number: int, seed: int, place: Path, duration: float, expected: str) -> list[str]:
    """What is wrong with case `number`: a blow at a moment of the run, and what follows."""
    draw = random.Random(f"{seed}/{number}")
    blow, moment = BLOWS[number % len(BLOWS)], draw.uniform(0, duration)
    folder, temporary = place / f"run{number}", place / f"tmp{number}"
    argv = [*TWO_WORKERS, "--run_dir", str(folder)]
    process_outcome = struck(argv, temporary, blow, moment)
    code, err, seconds = process_outcome
    wrong = []
    if blow == "kill -9":
        accepted = {-signal.SIGKILL, 0}
    elif blow == "kill -9 of the worker":
        accepted = {6, 0}
    else:
        accepted = {130, 0}
        if not folder.exists():  # before Python has come to our code, the signals mean what they always mean
            accepted |= {-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP}
    if code not in accepted:
        wrong.append(f"exit code {code}")
    if seconds > WITHIN_SECONDS and code != 0:
        wrong.append(f"{seconds:.1f} s until the end")
    if code == 130 and len(err.splitlines()) != 1:
        wrong.append(f"stderr {err!r}")
    # torch makes an empty folder for a compiler's cache, and keeps it from process to process.
    if left := [path for path in temporary.iterdir() if not path.name.startswith("torchinductor")]:
        wrong.append(f"left {left}")
    again = begin([*argv, "--resume"], temporary)
    _, err_again = again.communicate(timeout=120)
    if again.returncode:
        wrong.append(f"--resume ends with {again.returncode}: {err_again}")
    elif sha256(folder) != expected:
        wrong.append("resumed to another model")
    elif dots := list(folder.glob(".*")):
        wrong.append(f"left {dots}")
    return [f"{number}: {blow} after {moment:.2f} s: {what}" for what in wrong]


def signals(count: int, seed: int, place: Path) -> list[str]:
    for name in ("warm-up", "whole"):
        began = time.monotonic()
        process = begin([*TWO_WORKERS, "--run_dir", str(place / name)], place / "tmp")
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    duration, expected = time.monotonic() - began, sha256(place / "whole")
    failures = []
    for number in range(count):
        failures += one_signal(number, seed, place, duration, expected)
    return failures
