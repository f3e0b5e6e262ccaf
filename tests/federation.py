"""Start a federation of separate programs on this machine, and look at what it does and leaves. For tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from deploy.processes import processes

ROOT = Path(__file__).parents[1]
TINY = [
    "--dataset", f"{ROOT}/tests/tiny.py:tiny", "--model", "logistic", "--optimizer", "sgd", "--init_lr", "0.1",
    "--batch_size", "5", "--local_epoch", "2", "--device", "cpu", "--timeout", "90",
]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}  # one thread, so that the bits are those of the simulation


def up(*words: object, **more) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "deploy" / "up.py"), *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment(), **pipes, **more)


def federated(*words: object) -> None:
    command = [sys.executable, str(ROOT / "run_federated.py"), *map(str, words)]
    subprocess.run(command, check=True, env=environment(), capture_output=True)


def done(child: subprocess.Popen[str], tmp: Path) -> tuple[int, str, str]:
    """Its exit code and what it printed, and nothing of it is left."""
    try:
        out, err = child.communicate(timeout=400)
    finally:
        child.kill()
    assert not programs(tmp)
    assert not list(tmp.glob("federation-*"))
    return child.returncode, out, err


def programs(place: Path, name: str = "") -> dict[int, str]:
    """The command lines of the programs that run in folders under `place`, with this last name if it is given."""
    found = {}
    for pid, _, state in processes():
        try:
            folder = Path(f"/proc/{pid}/cwd").resolve()
            if folder.is_relative_to(place) and name in ("", folder.name) and not state.startswith("Z"):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def sha256(folder: Path) -> str:
    return json.loads((folder / "summary.json").read_text())["model_sha256"]


def wait_for(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.2)
    raise AssertionError("it did not come to that in time")
