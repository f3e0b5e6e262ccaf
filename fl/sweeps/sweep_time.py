"""How long a sweep will take, from a few steps of every cell: sweep.py --dry_run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fl.engines import choose
from fl.estimate import rough, seconds_a_step, seconds_an_evaluation
from fl.experiment import federated
from fl.plan import all_steps, evaluations
from fl.sweeps.grid import Cell
from fl.sweeps.sweep import Planned
from fl.words import several


def expected(left: Sequence[Planned], jobs: int) -> Iterator[str]:
    """One line per cell with the time that its runs still take, and one for all, if no run slows another down."""
    seconds: dict[Path, float] = {}  # by a run's folder
    for cell in {run.cell.folder: run.cell for run in left}.values():
        runs = [run for run in left if run.cell.folder == cell.folder]
        a_round = seconds_a_run(cell) / max(cell.config.global_epoch, 1)
        seconds |= {run.job.folder: (run.job.rounds - run.rounds) * a_round for run in runs}
        yield f"{cell.label}: {several(len(runs), 'run')}, {rough(sum(seconds[run.job.folder] for run in runs))}"
    together = min(jobs, len(left)) or 1
    all_of_them = time_of([seconds[run.job.folder] for run in left], together)
    at_once = several(together, "run")
    yield f"all: {rough(all_of_them)} with {at_once} at a time, beside the seconds in which each starts"


def time_of(seconds: Sequence[float], together: int) -> float:
    """Seconds until all runs are over, if they take `seconds` each and `together` of them run at a time."""
    ends = [0.0] * together
    for one in seconds:
        ends[ends.index(min(ends))] += one
    return max(ends)


def seconds_a_run(cell: Cell) -> float:
    """Estimated seconds of one whole run of the cell, in one process on one thread."""
    config = replace(cell.config, workers=cell.config.workers or 1)
    x = federated(config, None)
    engine, workers = choose(x)
    a_step = seconds_a_step(x, engine, workers)
    return all_steps(x) * a_step + evaluations(config, config.global_epoch) * seconds_an_evaluation(x)
