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
    from data.heterogeneity import in_words
    from fl.bar import Bar
    from fl.comparing.labels import partition_title, run_title
    from fl.engines import assist, choose, make_engine
    from fl.experiment import federated
    from fl.flags.changing import has_drift
    from fl.personalise import final_tests, take_part
    from fl.pictures.plot import save_drift, save_partition
    from fl.plan import engine_line, federated_plan, round_steps
    from fl.processes.workers import group_of, torchrun_device
    from fl.record import RunFolder
    from fl.recorded import federated_rounds
    from fl.run import describe, follow

    x = federated(config, torchrun_device(config))
    config = x.config  # with the number of clients, if the data set had to say it
    engine_name, workers = choose(x)
    if config.dry_run:
        print(federated_plan(x, engine_name, workers))
        return

    bar = Bar(config.quiet)
    engine = make_engine(engine_name, x, tick=bar)
    with group_of(config, workers, assist) as group:
        if group.rank:  # started by torchrun; what --workers starts goes to `assist` directly
            take_part(x, engine, group)
            return
        notes = {"engine": engine_name, "workers": group.size, "partition": x.heterogeneity}
        with RunFolder("federated", x, x.facts, notes, config.global_epoch) as folder:
            if not config.quiet:
                print(describe(x, f"partition {config.partition}: {in_words(x.heterogeneity)}"))
                print(f"engine {engine_line(engine_name, group.size)}")
            folder.picture("partition.png", lambda path: save_partition(path, x.label_counts, partition_title(config)))
            if has_drift(config):
                shown = x.label_counts_at(sorted({1, 1 + folder.rounds // 2, max(folder.rounds, 1)}))
                folder.picture("drift.png", lambda path: save_drift(path, shown, run_title(config, "federated")))
            rounds = federated_rounds(x, engine, group, folder.start)
            rounds = bar.over(rounds, lambda t: round_steps(x, t) // group.size, folder.first, folder.rounds)
            title = run_title(config, "federated")
            follow(config, folder, rounds, title, lambda end: final_tests(x, engine, group, end))


def run(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command line `argv` (default: this process's)."""
    return main(argv, "federated", __doc__ or "", train)


if __name__ == "__main__":
    leave(run())
