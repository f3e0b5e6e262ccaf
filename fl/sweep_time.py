"""How long a sweep will take, from a few steps of every cell: sweep.py --dry_run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from fl.engines import choose
from fl.estimate import rough, seconds_a_step, seconds_an_evaluation
from fl.experiment import federated
from fl.grid import Cell
from fl.plan import all_steps, evaluations
from fl.sweep import Planned
from fl.words import several


def expected(left: Sequence[Planned], jobs: int) -> Iterator[str]:
    """One line a cell with what its runs still take, and one for all, if no run gets in another's way."""
    total = 0.0
    for cell in {run.cell.folder: run.cell for run in left}.values():
        runs = [run for run in left if run.cell.folder == cell.folder]
        share = sum(run.job.rounds - run.rounds for run in runs) / max(cell.config.global_epoch, 1)
        seconds = share * seconds_a_run(cell)
        total += seconds
        yield f"{cell.label}: {several(len(runs), 'run')}, {rough(seconds)}"
    together = min(jobs, len(left)) or 1
    at_once = several(together, "run")
    yield f"all: {rough(total / together)} with {at_once} at a time, beside the seconds in which each starts"


def seconds_a_run(cell: Cell) -> float:
    """Of one whole run of the cell, in one process on one thread."""
    config = replace(cell.config, workers=cell.config.workers or 1)
    x = federated(config, None)
    engine, workers = choose(x)
    a_step = seconds_a_step(x, engine, workers)
    return all_steps(x) * a_step + evaluations(config, config.global_epoch) * seconds_an_evaluation(x)
