#!/usr/bin/env python3
"""Run every combination of some flags' values with several seeds: one table, its differences, and one picture."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fl.comparing.labels import said_seeds
from fl.guard import guarded, leave
from fl.sweeps.grid import cells_of
from fl.words import Words, count, destination, several


def parser() -> Words:
    made = Words(
        prog="sweep.py", usage="%(prog)s --grid FLAG=VALUE,VALUE [...] --out DIR -- [flags of run_federated.py]",
        description=__doc__, allow_abbrev=False,
    )  # fmt: skip
    made.add_argument(
        "--grid", action="append", required=True, metavar="FLAG=VALUE,VALUE",
        help="a flag of run_federated.py with its values, such as init_lr=0.05,0.1; a switch takes on and off; values "
             "that contain commas are separated by semicolons, and those of label_sets by |; "
             "repeatable: every combination is run",
    )  # fmt: skip
    made.add_argument("--out", required=True, metavar="DIR", help="where the runs, the tables and the picture go")
    made.add_argument("--seeds", default="1", metavar="N", help="seeds of each cell, from 0 on (default: %(default)s)")
    made.add_argument(
        "--jobs", metavar="N", help="runs at a time, each on one thread (default: one per core; on a GPU one)"
    )
    made.add_argument("--dry_run", action="store_true", help="print the plan and how long it will take; run nothing")
    return made


def sweep(argv: Sequence[str]) -> None:
    at = list(argv).index("--") if "--" in argv else len(argv)
    words = parser().parse_args(argv[:at])
    seeds, jobs = range(count("--seeds", words.seeds)), count("--jobs", words.jobs) if words.jobs else None
    out = destination("--out", words.out)
    cells = cells_of(words.grid, argv[at + 1 :])

    from fl.sweeps.sweep import at_once, carry_out, planned, publish

    runs = planned(cells, seeds, out)
    left = [run for run in runs if not run.is_over]
    jobs = jobs or at_once(run.cell.config for run in left)
    rounds = sum(run.job.rounds - run.rounds for run in left)
    print(
        f"{several(len(runs), 'run')}: {several(len(cells), 'cell')}, {said_seeds(seeds)}; "
        f"{len(runs) - len(left)} done, {several(rounds, 'round')} to go at most, {several(jobs, 'run')} at a time",
        flush=True,
    )
    if words.dry_run:
        from fl.sweeps.sweep_time import expected

        for line in expected(left, jobs):  # each is measured only now
            print(line, flush=True)
        return
    carry_out(runs, jobs)
    publish(planned(cells, seeds, out), out)


def run(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command line `argv` (default: this process's)."""
    return guarded("sweep.py", lambda: sweep(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    leave(run())
