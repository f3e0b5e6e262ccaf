"""Kill clients at random moments while a federation of separate programs trains: it must end, and say who was lost.

    python3 -m tests.sweeps.network --nodes 10 --rounds 20 --kills 30

Most kills hit the process that trains, and some a client's node with all it has started, which does not come back.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.federation import programs

ROOT = Path(__file__).parents[2]


def of_nodes(place: Path, nodes: int) -> dict[int, dict[int, str]]:
    """The programs of each node, with their command lines."""
    return {k: found for k in range(nodes) if (found := programs(place, f"node{k}"))}


def main() -> int:
    parser = argparse.ArgumentParser()
    for name, value in (("nodes", 10), ("rounds", 20), ("kills", 30), ("seed", 0), ("most_dead", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    words = parser.parse_args()
    draw = random.Random(words.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run = place / "run"
        child = subprocess.Popen(
            [sys.executable, ROOT / "deploy/up.py", "--nodes", str(words.nodes), "--global_epoch", str(words.rounds),
             "--dataset", f"{ROOT}/tests/tiny.py:tiny", "--model", "logistic", "--optimizer", "sgd",
             "--batch_size", "5", "--local_epoch", "1", "--timeout", "120", "--run_dir", str(run)],
            env={**os.environ, "TMPDIR": folder},
        )  # fmt: skip
        killed: Counter[str] = Counter()
        dead: set[int] = set()
        while child.poll() is None:
            time.sleep(draw.uniform(0, 8))
            lines = (run / "metrics.jsonl").read_text().count("\n") if (run / "metrics.jsonl").exists() else 0
            if lines < 2 or killed.total() >= words.kills:
                continue
            there = {k: some for k, some in of_nodes(place, words.nodes).items() if k not in dead}
            if len(dead) < words.most_dead and draw.random() < 0.15 and there:
                k = draw.choice(sorted(there))
                for pid in there[k]:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                dead.add(k)
                killed["nodes"] += 1
                continue
            training = [pid for some in there.values() for pid, command in some.items() if "flwr-clientapp" in command]
            if training:
                with suppress(ProcessLookupError):
                    os.kill(draw.choice(sorted(training)), signal.SIGKILL)
                    killed["training processes"] += 1
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][1:]
        unexplained = [
            one["round"] for one in records
            if len(one["clients"]) + len(one.get("lost", ())) + len(one.get("rejected", ())) != words.nodes
        ]  # fmt: skip
        reasons = Counter(why.split(":")[0] for one in records for why in one.get("lost", {}).values())
        left = len(programs(place))
        print(f"killed: {dict(killed)}; nodes that were gone: {sorted(dead)}")
        abandoned = sum("abandoned" in one for one in records)
        print(f"exit code {child.returncode}, {len(records)} rounds, {abandoned} abandoned")
        print(f"lost: {dict(reasons)}; rounds that do not say what became of each client: {unexplained}")
        print(f"processes left: {left}")
    return int(child.returncode != 0 or len(records) != words.rounds or bool(unexplained) or left > 0)


if __name__ == "__main__":
    raise SystemExit(main())
