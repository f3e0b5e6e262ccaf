"""A stand-in for run_federated.py that trains nothing and loads no torch, for tests of what starts many runs.

The accuracy after its last round follows from the rate and the seed. Some rates stand for what may happen: 5 diverges,
7 finds its data missing, 9 waits for ever, and 11 is killed.
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
end = T if config.init_lr < 5 else 1
(folder / "metrics.jsonl").write_text(lines(record(t, 0.1 + (best - 0.1) * t / T) for t in range(end + 1)))
if config.init_lr == 5:
    print(f"{Path(__file__).name}: round {end + 1}: the model is not finite", file=sys.stderr)
    sys.exit(5)
if config.init_lr == 7:
    print(f"{Path(__file__).name}: data/: there is no such data", file=sys.stderr)
    sys.exit(3)
if config.init_lr == 9:
    time.sleep(600)
if config.init_lr == 11:
    os.kill(os.getpid(), signal.SIGKILL)
(folder / "summary.json").write_text(json.dumps({"rounds": T}))
