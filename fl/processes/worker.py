"""The first steps of a process that fl/processes/workers.py starts. Imports no torch before it watches over rank 0."""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import sys
import threading
import traceback
from contextlib import suppress

from fl.signals import end_with

PRELOAD: list[str] = []  # modules that workers import before anything else
said: list[int] = []  # the descriptor on which this worker says that it is about to join the others


def main(work: str) -> None:
    """Read the job, a line of JSON on stdin, and do it; end when rank 0 ends, however that happens.

    work: "module:function", which takes the job and returns an exit code. It brings torch, so that it is imported late.
    """
    end_with(os.getppid(), signal.SIGKILL)  # even while this worker is stopped
    said.append(os.dup(1))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what parts of the user's own print
    os.close(nowhere)
    line = sys.stdin.buffer.readline()
    if not line:  # rank 0 ended before it had a job for us, and has said why
        os._exit(1)
    job = json.loads(line)
    threading.Thread(target=watch, daemon=True).start()

    try:
        code = pkgutil.resolve_name(work)(job)
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)  # torch.distributed's threads may still wait for a peer that is gone


def announce() -> None:
    """Tell rank 0 that this worker is about to join; so it need not wait in vain for one that cannot even start."""
    descriptor = said.pop()
    with suppress(OSError):  # rank 0 has gone, which `watch` notices
        os.write(descriptor, b"\n")
    os.close(descriptor)


def watch() -> None:
    while os.read(0, 1):  # rank 0 holds the other end of stdin, so this ends when rank 0 is gone
        pass
    os._exit(1)
