"""Sweeps of what may befall a run. The suite takes a small sample of each; here are all of them, from the root:

    python3 -m tests.sweeps signals --count 40         Ctrl-C, SIGTERM and kill -9 at any moment of a run
    python3 -m tests.sweeps lines --count 2000         random valid command lines, each resumed too
    python3 -m tests.sweeps environments --count 500   closed streams, locales, limits, disks that are full or read-only

Each case follows from --seed and its number. A sweep prints its failures, and exits with 1 if there are any.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.sweeps.environments import environments
from tests.sweeps.lines import lines
from tests.sweeps.signals import signals

# Shells start background jobs with Ctrl-C ignored; the runs would inherit that, and rightly not heed it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SWEEPS = {"signals": signals, "lines": lines, "environments": environments}
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("sweep", choices=list(SWEEPS))
parser.add_argument("--count", type=int, default=40)
parser.add_argument("--seed", type=int, default=0)
words = parser.parse_args()
with tempfile.TemporaryDirectory() as place:
    failures = SWEEPS[words.sweep](words.count, words.seed, Path(place))
print(*failures, sep="\n")
print(f"{words.sweep}: {words.count} cases from seed {words.seed}, {len(failures)} failures")
sys.exit(int(bool(failures)))
