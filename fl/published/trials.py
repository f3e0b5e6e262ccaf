"""Runs of one cell of a published table, each an ordinary run folder, from which the next call goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fl.command_line import parse
from fl.config import Config
from fl.errors import RunFolderError
from fl.records.reading import has_diverged, is_finished, read_metrics, rounds_to_target
from fl.sweeps.grid import Cell
from fl.sweeps.sweep import Planned, at_once, carry_out, on_cpu, plan_of


class Trial(NamedTuple):
    """A run to have: its folder within the cell's, all its flags but for the seed, and the seed."""

    folder: str
    words: list[str]
    seed: int


class Outcome(NamedTuple):
    """What has come of a run: its records, as many as the trial asked for; none if it diverged before the first."""

    records: list[dict[str, Any]]
    diverged: bool

    @property
    def rounds(self) -> int:
        return max(len(self.records) - 1, 0)

    @property
    def accuracies(self) -> list[float]:
        """In [0, 1], of the rounds that were evaluated."""
        return [record["test_accuracy"] for record in self.records if record["test_accuracy"] is not None]


Bench = Callable[[Sequence[Trial]], list[Outcome]]  # runs trials of a cell


def bench(cell: str, place: Path, jobs: int | None, look: Callable[[], None]) -> Bench:
    """A function that runs trials of the cell in PLACE/<cell> and starts none that has ended.

    jobs: how many runs there are at once at most; None is as many as their device suggests. look: called all the
    while; what it raises ends the runs.
    """

    def plan(trial: Trial, workers: int) -> Planned:
        words = [*trial.words, "--workers", str(workers)]
        config = parse(words, "federated", "")
        planned = plan_of(Cell(cell, trial.folder, words, config), trial.seed, place / cell)
        had = outcome(planned.job.folder, config.global_epoch)
        # A run that was killed after its last round has not written its model and summary yet.
        is_over = had.diverged or (
            has_ended(had, config) and (planned.rounds > had.rounds or is_finished(planned.job.folder, had.records))
        )
        return planned._replace(is_over=is_over)

    def run(trials: Sequence[Trial]) -> list[Outcome]:
        plans = [plan(trial, 1) for trial in trials]
        left = [i for i, one in enumerate(plans) if not one.is_over]
        most = jobs or at_once(plans[i].cell.config for i in left)
        several = {i: n for i, n in zip(left, processes(len(left), most), strict=True) if n > 1}
        if several and not on_cpu(plans[i].cell.config for i in several):
            several = {}
        carry_out([one for i, one in enumerate(plans) if i not in several], most, look)
        for i, n in several.items():
            plans[i] = plan(trials[i], min(n, plans[i].cell.config.num_select_clients))
        carry_out([plans[i] for i in several], len(several), look)
        return [outcome(one.job.folder, one.cell.config.global_epoch) for one in plans]

    return run


def processes(runs: int, jobs: int) -> list[int]:
    """The number of processes of each run, where `jobs` of them run at a time.

    The last runs % jobs runs, if there are two processes or more for each, share all `jobs` of them, because cores
    would be idle otherwise. They wait until the other runs are over. The number of processes does not change a run's
    bits.
    """
    last = runs % jobs
    return [1] * (runs - last) + [jobs // last] * last if last else [1] * runs


def outcome(folder: Path, rounds: int) -> Outcome:
    """Of the first `rounds` rounds. Other flags may have made the run longer."""
    try:
        records = read_metrics(folder).records[: rounds + 1]
    except RunFolderError:  # there is none yet, or it was killed before its first record
        records = []
    return Outcome(records, has_diverged(folder, records, rounds))


def has_ended(had: Outcome, config: Config) -> bool:
    """Whether the run has had all its rounds, or is at the target at which it stops."""
    if had.records and had.rounds >= config.global_epoch:
        return True
    return config.stop_at_target and rounds_to_target(had.records, config.target_accuracy[-1]) is not None
