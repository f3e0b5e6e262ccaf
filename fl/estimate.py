"""How long a run will take, from a few steps of it: --dry_run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from data.partition import Partition
from fl.baseline import stream
from fl.client import make_optimizer, train
from fl.cohort import Cohort
from fl.engines import make_engine
from fl.evaluate import evaluate
from fl.experiment import Experiment
from fl.group import Group
from fl.processes.workers import has_one_thread
from fl.state import Kept

STEPS_TIMED = 10  # of each client, after as many that are not timed


def seconds_a_step(x: Experiment, engine: str, workers: int) -> float:
    """Estimated seconds of a run per client step: the measured time of one step, divided by `workers`.

    The clients that one process would train in round 1 train on their first minibatches twice, and the second time is
    measured. Only this process trains, on one thread if each process will have one. So it is not measured how much
    several processes slow each other down.
    """
    if has_one_thread(x.config, workers):
        torch.set_num_threads(1)
    c = replace(x.config, local_epoch=1, data_drift="none")  # so that minibatches are full
    clients = x.cohort(1).reporting or [0]
    mine = clients[: -(-len(clients) // workers)]
    short = replace(x, config=c, partition=cut(x.partition, mine, STEPS_TIMED * c.batch_size or len(x.data.train)))
    executed = make_engine(engine, short)
    for t in (1, 2):
        began = time.perf_counter()
        now = short.round_start(t, short.w, Kept(), Cohort(mine, mine))
        now = short.algorithm.prepare(executed, now, mine, Group())
        steps = 0
        for update in executed.train(mine, now, partial(short.algorithm.tell, now)):
            steps += sum(report.steps for report in update.reports)
        wait_for(x.device)
    return (time.perf_counter() - began) / (steps * workers)


def cut(partition: Partition, clients: Sequence[int], most: int) -> Partition:
    """The same partition, in which `clients` keep at most `most` examples each, and every other client keeps one."""
    sizes = torch.ones(len(partition), dtype=torch.int64)
    picked = torch.tensor(clients, dtype=torch.int64)
    sizes[picked] = partition.sizes[picked].clamp(max=most)
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    inside = torch.arange(int(offsets[-1])) - torch.repeat_interleave(offsets[:-1], sizes)
    return Partition(partition.indices[torch.repeat_interleave(partition.offsets[:-1], sizes) + inside], offsets)


def seconds_a_central_step(x: Experiment) -> float:
    """Measured seconds of one step of the baseline, on its first minibatches."""
    c, n = x.config, x.n
    B = min(c.batch_size or n, n)
    optimizer = make_optimizer(x.model.parameters(), c, c.init_lr)
    for first in (0, 1):
        began = time.perf_counter()
        batches = stream(c.seed, x.data, B, first * STEPS_TIMED * B, (first + 1) * STEPS_TIMED * B)
        train(x.model, optimizer, x.data, batches)
        wait_for(x.device)
    return (time.perf_counter() - began) / STEPS_TIMED


def seconds_an_evaluation(x: Experiment) -> float:
    for _ in range(2):
        began = time.perf_counter()
        evaluate(x.model, x.data, Group())
    return time.perf_counter() - began


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished all work that was queued on it."""
    torch.zeros(1, device=device).item()


def rough(seconds: float) -> str:
    """The time in words with two digits, because the estimate may be wrong by a quarter."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"about {float(f'{seconds / size:.2g}'):,.10g} {unit}"  # 110 minutes, not 1.1e+02
    return f"about {seconds:.2g} seconds" if seconds >= 1.5 else "about 1 second"
