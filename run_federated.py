#!/usr/bin/env python3
"""Train by federated averaging over simulated clients and print test accuracy and loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fl.guard import leave, main

if TYPE_CHECKING:
    from fl.config import Config


def train(config: Config) -> None:
    """Partition, then rounds of: select, local update, aggregate, evaluate, record; at last, plot."""
    # Imported only now: --help and wrong flags answer without waiting for torch.
    from fl.attack import poisoned
    from fl.engines import assist, choose, make_engine
    from fl.parts import check_parts
    from fl.plan import federated_plan, round_steps
    from fl.plot import save_partition
    from fl.record import RunFolder
    from fl.rounds import federated_averaging
    from fl.run import Bar, describe, follow
    from fl.task import prepare, split
    from fl.workers import group_of, torchrun_device

    check_parts(config)
    task = prepare(config, torchrun_device(config))
    partition = split(config, task.data)
    facts = {"data_sha256": task.data.sha256(), "partition_sha256": partition.sha256()}
    counts = partition.label_counts(task.data.train.labels.cpu(), task.data.classes)
    task = poisoned(task, partition, config)
    engine_name, workers = choose(config, task, partition)
    title = f"{config.dataset}, {config.partition} over {len(partition)} clients"
    if config.dry_run:
        print(federated_plan(config, task, partition))
        return

    bar = Bar(config.quiet)
    engine = make_engine(engine_name, config, task, partition, tick=bar)
    with group_of(config, workers, assist) as group:
        if group.rank:  # started by torchrun; what --workers starts goes to `assist` directly
            for _ in federated_averaging(task, partition, engine, config, group):
                pass
            return
        notes = {"engine": engine_name, "workers": group.size}
        with RunFolder(config, "federated", task, facts, notes, config.global_epoch) as folder:
            if not config.quiet:
                print(describe(task, f"partition {config.partition}: {len(partition)} clients"))
                print(f"engine {engine_name}" + (f" in {group.size} processes" if group.size > 1 else ""))
            folder.picture("partition.png", lambda path: save_partition(path, counts, title))
            rounds = federated_averaging(task, partition, engine, config, group, folder.start)
            rounds = bar.over(rounds, lambda t: round_steps(config, partition, t) // group.size)
            follow(config, folder, rounds, f"{config.algorithm}, {config.model} on {title}")


def run(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command line `argv` (default: this process's)."""
    return main(argv, "federated", __doc__ or "", train)


if __name__ == "__main__":
    leave(run())
