"""What the sweeps share: runs on the tiny data set in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--dataset tiny --model logistic --optimizer sgd --init_lr 0.1 --batch_size 5 --num_clients 4 "
    "--num_select_clients 2 --global_epoch 3 --local_epoch 2 --device cpu --quiet"
)
SMALL = FLAGS.split()
CODE = "import tests, run_federated as s; s.leave(s.run())"  # tests registers the tiny data set
CODES = {0, 2, 3, 4, 5, 6, 130}  # the exit codes that docs/reproducibility.md lists


def members(session: int) -> list[int]:
    """The live processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def sha256(folder: Path) -> str:
    return str(json.loads((folder / "summary.json").read_text())["model_sha256"])


def begin(argv: list[str], temporary: Path) -> subprocess.Popen[str]:
    """A run in a session of its own, whose temporary files land in `temporary`."""
    temporary.mkdir(exist_ok=True)
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    return subprocess.Popen([sys.executable, "-c", CODE, *argv], cwd=ROOT, env=env, text=True, start_new_session=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
