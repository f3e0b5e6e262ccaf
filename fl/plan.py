"""What a run will do, before it does it: --dry_run, and the lengths of the progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from data.partition import Partition
from fl.config import Config
from fl.engines.schedule import steps_of
from fl.parts import algorithm_of
from fl.records import read_records
from fl.rng import select_clients
from fl.task import Task

MOST_CLIENTS_LISTED = 20
MOST_ROUNDS_COUNTED = 1000


def round_steps(config: Config, partition: Partition, t: int) -> int:
    """Gradient steps of all the clients of round t."""
    S_t = select_clients(config.seed, t, len(partition), config.num_select_clients)
    return sum(steps_of(config, n_k) for n_k in partition.sizes_of(S_t))


def boundaries(config: Config, n: int) -> Sequence[int]:
    """Examples processed by the end of each record of the baseline.

    Raises RunFolderError when --match names a folder without records.
    """
    if config.match is None:
        return range(n, n * (config.epoch + 1), n)
    rounds = [record["examples"] for record in read_records(Path(config.match)) if record["round"] > 0]
    return list(accumulate(rounds))


def stream_steps(config: Config, n: int, ends: Sequence[int], t: int) -> int:
    """Gradient steps of record t of the baseline, but for the batches cut at a record's ends."""
    if not 1 <= t <= len(ends):
        return 0
    B = min(config.batch_size or n, n)
    return -(-(ends[t - 1] - (ends[t - 2] if t > 1 else 0)) // B)


def federated_plan(config: Config, task: Task, partition: Partition) -> str:
    sizes, m, T = partition.sizes, config.num_select_clients, config.global_epoch
    E, B, K = config.local_epoch, config.batch_size, len(partition)
    n = int(sizes.sum())
    u = E * n / (K * B) if B else float(E)
    exact = min(T, MOST_ROUNDS_COUNTED)
    down, up = algorithm_of(config).transfers
    steps = sum(round_steps(config, partition, t) for t in range(1, exact + 1)) * T // max(exact, 1)
    counts = partition.label_counts(task.data.train.labels.cpu(), task.data.classes)
    lines = [
        *_what(config, task),
        f"partition     {config.partition}, sha256 {partition.sha256()}",
        f"clients       K = {K}, m = {m} a round; n_k from {int(sizes.min())} to {int(sizes.max())}, n = {n}",
        f"local work    E = {E}, B = {B or 'the whole data set'}, u = E n / (K B) = {u:g} steps a client a round",
        f"rounds        T = {T}: {'' if exact == T else 'about '}{steps:,} gradient steps in all",
        f"algorithm     {config.algorithm}, aggregate {config.aggregate}, attack {config.attack or 'none'}",
        f"bytes a round {m * down * task.model_bytes:,} down, {m * up * task.model_bytes:,} up",
        "client    n_k  examples of each label",
    ]
    for k in range(min(K, MOST_CLIENTS_LISTED)):
        lines.append(f"{k:6d} {int(sizes[k]):6d}  " + " ".join(f"{count:5d}" for count in counts[k].tolist()))
    if K > MOST_CLIENTS_LISTED:
        lines.append(f"   ... and {K - MOST_CLIENTS_LISTED:,} more")
    return "\n".join(lines)


def baseline_plan(config: Config, task: Task, ends: Sequence[int]) -> str:
    n = len(task.data.train)
    B = min(config.batch_size or n, n)
    steps = (
        len(ends) * -(-n // B)
        if config.match is None
        else sum(stream_steps(config, n, ends, t) for t in range(1, len(ends) + 1))
    )
    last = ends[-1] if ends else 0
    length = f"matching {config.match}" if config.match else f"{config.epoch} epochs"
    return "\n".join(
        [
            *_what(config, task),
            f"local work    B = {config.batch_size or 'the whole data set'}, {n} examples in one place",
            f"rounds        {len(ends)} ({length}): {last:,} examples, about {steps:,} gradient steps in all",
            "bytes a round 0 down, 0 up",
        ]
    )


def _what(config: Config, task: Task) -> list[str]:
    data = task.data
    return [
        f"data          {data.name}: {len(data.train):,} training and {len(data.test):,} test examples, "
        f"from {data.source}",
        f"model         {config.model}, {task.parameters:,} parameters, {task.model_bytes:,} bytes, on {task.device}",
        f"optimizer     {config.optimizer}, eta = {config.init_lr:g} x {config.lr_decay:g} a round",
    ]
