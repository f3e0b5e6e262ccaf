"""A grid of runs: which of them are there already, the others, and one table with one picture over all.

A run is an ordinary run folder, OUT/<cell>/seed<k>, to which every command of run_federated.py and compare.py applies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fl.check import with_clients
from fl.comparing.compared import Experiment, check_code, experiment, read
from fl.comparing.differences import differences, differences_on_screen, is_telling
from fl.comparing.labels import said_seeds, shared_title
from fl.comparing.report import json_report, markdown_report
from fl.comparing.tables import Row, as_csv, as_latex, measured, on_screen
from fl.config import DEFAULTS, FLAGS, RESUMABLE, Config
from fl.config_file import read_config
from fl.cores import cores
from fl.errors import DivergedError, FlagError, RunFolderError
from fl.flags.flag import floor
from fl.records.files import write_atomic
from fl.records.reading import DIVERGED, has_diverged, is_finished, read_metrics
from fl.sweeps.children import Job, ended, last_words
from fl.sweeps.grid import Cell
from fl.sweeps.progress import Progress

# The flags that a resumed run may change and that say how far it goes, or what is done at its end.
ENDS = ("global_epoch", "target_accuracy", "stop_at_target", "stop_below", "personalise_epochs", "local_only")
# The flags that say where the data are. If they differ from the recorded ones, even a finished run is started: it
# checks that these are the data on which it was trained, and records the new place.
PLACES = ("data_dir", "text")
TABLES = {"table.md": markdown_report, "table.csv": as_csv, "table.json": json_report, "table.tex": as_latex}


class Planned(NamedTuple):
    """A run of the grid. rounds: on record. is_over: whether nothing is left to do. diverged: in a round asked for."""

    cell: Cell
    seed: int
    job: Job
    rounds: int
    is_over: bool
    diverged: bool


def planned(cells: Sequence[Cell], seeds: Sequence[int], out: Path) -> list[Planned]:
    """All runs, seed by seed, so that early ones say something of every cell.

    Raises FlagError if a folder holds a longer run or one with other flags, and RunFolderError if it cannot be read.
    """
    plans = [plan_of(cell, seed, out) for seed in seeds for cell in cells]
    for one in plans:
        if one.rounds > one.job.rounds:
            raise FlagError(
                f"--global_epoch {one.job.rounds}: the run in {one.job.folder} has {one.rounds} rounds; "
                "ask for as many at least, or choose another folder"
            )
    return plans


def plan_of(cell: Cell, seed: int, out: Path) -> Planned:
    """How far the run of this cell and seed is."""
    folder, rounds = out / cell.folder / f"seed{seed}", cell.config.global_epoch
    # A run that goes on keeps its own --data_dir unless it is given one, be it the default.
    own = ["--data_dir", cell.config.data_dir, "--seed", str(seed), "--global_epoch", str(rounds)]
    job = Job(folder, [*cell.flags, *own], rounds)
    if not (folder / "config.json").exists():
        return Planned(cell, seed, job, 0, False, False)
    recorded = read_config(folder)
    check_same(folder, recorded, replace(cell.config, seed=seed))
    try:
        records = read_metrics(folder).records
    except RunFolderError:  # it was killed before its first record
        return Planned(cell, seed, job, 0, False, False)
    check_stop(folder, records, cell.config)
    diverged = has_diverged(folder, records, rounds)
    is_where = all(recorded[name] == getattr(cell.config, name) for name in PLACES)
    goes_no_further = all(recorded[name] == getattr(cell.config, name) for name in ENDS)
    is_over = is_where and goes_no_further and (diverged or is_finished(folder, records))
    return Planned(cell, seed, job, records[-1]["round"], is_over, diverged)


def check_same(folder: Path, recorded: dict[str, Any], config: Config) -> None:
    """Raise FlagError if the run in the folder is not one of these flags, apart from flags that may change."""
    check_flags(("dataset", "partition"), folder, recorded, config)
    # The data set may have had to say how many clients there are.
    check_flags(tuple(FLAGS), folder, recorded, with_clients(config, recorded["num_clients"]))


def check_flags(names: Sequence[str], folder: Path, recorded: dict[str, Any], config: Config) -> None:
    """`check_same` for some flags."""
    # A resumed run keeps the recorded values of these flags if they are not given. So a flag at its default must be the
    # same on record.
    stay = (*ENDS, "text")
    for name in names:
        was, now = recorded[name], getattr(config, name)
        may_change = name in RESUMABLE and (name not in stay or name == "global_epoch" or now != DEFAULTS[name])
        if was == now or may_change:
            continue
        had = ", ".join(map(str, was)) if isinstance(was, list | tuple) else was
        if now == DEFAULTS[name]:
            usual = "nothing" if now in ((), None) else now
            raise FlagError(
                f"--{name}: is {usual} by default, and the run in {folder} has {had}; "
                "give that again, or choose another folder"
            )
        raise FlagError(f"--{name} {now}: the run in {folder} has {had}; choose another folder, or remove this one")


def check_stop(folder: Path, records: Sequence[dict[str, Any]], config: Config) -> None:
    """Raise FlagError if a run with these flags would have stopped before the last round that is on record.

    A run can stop only in rounds that --eval_every asks for. Other rounds were evaluated because each was once the last
    one of a shorter run; their accuracies still count for --stop_below.
    """
    target = config.target_accuracy[-1] if config.stop_at_target else math.inf
    least, first = floor(config.stop_below) if config.stop_below else (0.0, 0)
    best = seen = 0.0
    for record in records[:-1]:
        t = record["round"]
        if record["test_accuracy"] is None:
            continue
        seen = max(seen, record["test_accuracy"])
        if t % config.eval_every:
            continue
        best = max(best, record["test_accuracy"])
        is_hopeless = t >= first and seen < least
        if best >= target or is_hopeless:
            flag = f"--stop_below {config.stop_below}" if is_hopeless else "--stop_at_target"
            raise FlagError(
                f"{flag}: the run in {folder} would have stopped in round {t}, and has {records[-1]['round']} rounds; "
                "ask for what it had, or choose another folder"
            )


def at_once(configs: Iterable[Config]) -> int:
    """How many of these runs go on side by side if --jobs does not say: on CPUs one per core.

    On a GPU it is one, because each further run takes GPU memory. If there is enough memory, give --jobs.
    """
    return cores() if on_cpu(configs) else 1


def on_cpu(configs: Iterable[Config]) -> bool:
    devices = {config.device for config in configs} - {"cpu"}
    if not devices:
        return True
    from fl.device import choose_device  # here, because torch takes seconds to load

    return all(choose_device(device).type == "cpu" for device in devices)


def carry_out(runs: Sequence[Planned], jobs: int, look: Callable[[], None] = lambda: None) -> None:
    """Do what is left of these runs, at most `jobs` at once. If one fails, raise an error with its exit code.

    look: called all the while; what it raises stops the runs in good order.

    A run that diverges is a result: a file in its folder says so, and it is not run again.
    """
    left = [run.job for run in runs if not run.is_over]
    progress = Progress([(run.job, run.rounds, run.is_over) for run in runs])

    def watch(running: Sequence[Job]) -> None:
        progress.look(running)
        look()

    try:
        with closing(ended(left, jobs, watch)) as ends:  # at once, whatever happens in here
            for job, code in ends:
                if code == DivergedError.exit_code:
                    if not job.folder.is_dir():
                        raise DivergedError(last_words(job))
                    write_atomic(job.folder / DIVERGED, (last_words(job) + "\n").encode())
                progress.over(job, "diverged" if code else "done")
    except KeyboardInterrupt:
        raise KeyboardInterrupt("; give the command again to go on") from None
    finally:
        progress.close()


def rows_of(runs: Sequence[Planned], targets: Sequence[float]) -> tuple[list[Row], dict[str, Experiment]]:
    """The table's rows, of runs that did not diverge; and what is drawn: these, or a cell's runs if all diverged."""
    tabled: dict[str, Experiment] = {}
    drawn: dict[str, Experiment] = {}
    for cell in {run.cell.folder: run.cell for run in runs}.values():
        own = sorted((run for run in runs if run.cell is cell), key=lambda run: run.seed)
        good = [run.job.folder for run in own if not run.diverged]
        lost = [run.seed for run in own if run.diverged]
        label = cell.label + (f" (diverged: {said_seeds(lost)})" if lost else "")
        found = read(good or [run.job.folder for run in own])
        check_code(found)
        drawn[label] = Experiment(dict(experiment(found[0])), found)
        tabled[label] = drawn[label] if good else Experiment({}, [])
    return measured(tabled, targets), drawn


def publish(runs: Sequence[Planned], out: Path) -> None:
    """Print the table and the differences, and write them and the picture into `out`. Raises OSError."""
    from fl.pictures.comparison import Sheet, save_comparison

    targets = tuple(sorted({target for run in runs for target in run.cell.config.target_accuracy}))
    rows, drawn = rows_of(runs, targets)
    print(on_screen(rows), flush=True)
    if len(rows) > 1 and is_telling(differences(rows)):
        print(f"\n{differences_on_screen(rows)}", flush=True)
    for name, written in TABLES.items():
        write_atomic(out / name, written(rows).encode())
    records = {label: [run.records for run in runs] for label, (_, runs) in drawn.items()}
    save_comparison(out / "curves.png", records, Sheet(title=shared_title(list(drawn.values())), targets=targets))
    print(f"{', '.join(TABLES)} and curves.png in {out}")
