"""A stand-in for run_federated.py that trains nothing and loads no torch, for tests of what starts many runs.

The accuracy rises over four rounds to what follows from the seed and from the rate, of which 0.1 is the best. Some
rates stand for what may happen: 5 diverges in round 2, 7 finds its data missing, 9 waits for ever, and 11 is killed.
"""

import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fl.command_line import parse
from tests.folders import lines, record


def stopped(number, frame):
    (folder / "stopped").touch()
    sys.exit(130)


signal.signal(signal.SIGTERM, stopped)
config = parse(sys.argv[1:], "federated", "")
folder = Path(config.run_dir)
folder.mkdir(parents=True, exist_ok=True)
with (folder / "starts").open("a") as starts:
    starts.write(f"{os.environ['OMP_NUM_THREADS']} {config.workers}\n")
(folder / "config.json").write_text(json.dumps({"script": "federated"} | asdict(config)))
T, best = config.global_epoch, max(0.9 - abs(config.init_lr - 0.1), 0.1) + 0.01 * config.seed
accuracies = [0.1 + (best - 0.1) * min(t / 4, 1) for t in range((T if config.init_lr < 5 else min(T, 1)) + 1)]
if config.stop_at_target:
    reached = [t for t, accuracy in enumerate(accuracies) if accuracy >= config.target_accuracy[-1]]
    accuracies = accuracies[: reached[0] + 1] if reached else accuracies
end = len(accuracies) - 1
(folder / "metrics.jsonl").write_text(lines(record(t, accuracy) for t, accuracy in enumerate(accuracies)))
if config.init_lr == 5 and end < T:
    print(f"{Path(__file__).name}: round {end + 1}: the model is not finite", file=sys.stderr)
    sys.exit(5)
if config.init_lr in (7, 11):  # not before the one that waits for ever is ready to be stopped
    deadline = time.monotonic() + 60
    while not list(folder.parents[1].glob("init_lr=9*/seed0/starts")) and time.monotonic() < deadline:
        time.sleep(0.05)
if config.init_lr == 7:
    print(f"{Path(__file__).name}: data/: there is no such data", file=sys.stderr)
    sys.exit(3)
if config.init_lr == 9:
    time.sleep(600)
if config.init_lr == 11:
    os.kill(os.getpid(), signal.SIGKILL)
(folder / "summary.json").write_text(json.dumps({"rounds": end}))
