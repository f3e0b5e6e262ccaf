"""How many processor cores this process may use. Imports no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def cores(root: Path = Path("/")) -> int:
    """The number of cores in the process's CPU affinity, but at most the container's CPU quota, rounded up.

    root: the root folder of the file system; tests pass another one. Torch respects the affinity but not the quota: in
    a container that may use two of 64 cores, torch would start 64 threads, and this package 64 processes.
    """
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min([here, *quotas(root)])))


def quotas(root: Path) -> Iterator[float]:
    """The CPU quotas, in cores, of this process's control group and of the groups above it; those without are skipped.

    In a container /proc/self/cgroup may give the path on the host, of which only the top folder exists there.
    """
    with suppress(OSError, ValueError):  # ValueError: a line that is no control group
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:  # version 2
                top, names = root / "sys/fs/cgroup", ["cpu.max"]
            elif "cpu" in controllers.split(","):  # version 1
                top, names = root / "sys/fs/cgroup/cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            else:
                continue
            own = top / path.lstrip("/")
            for folder in (own, *own.parents[: len(own.parts) - len(top.parts)]):
                with suppress(OSError, ValueError, ZeroDivisionError):  # "max" and -1 stand for no limit
                    quota, period = map(int, " ".join((folder / name).read_text() for name in names).split())
                    if quota > 0:
                        yield quota / period
