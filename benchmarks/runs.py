"""Runs of run_federated.py in a folder, from which the next call goes on; and the spread over several seeds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import run_federated
from fl.errors import DivergedError
from fl.records.reading import read_records


def records_of(folder: Path, words: str, may_diverge: bool = False) -> list[dict[str, Any]]:
    """The records of the run with these flags, from its folder if it is there; none if it diverged, where it may."""
    if not (folder / "summary.json").exists():
        with redirect_stdout(sys.stderr):
            code = run_federated.run([*words.split(), "--run_dir", str(folder)])
        if code == DivergedError.exit_code and may_diverge:  # that is a result, and no summary is written
            return []
        if code:
            raise SystemExit(f"{folder}: exit code {code}")
    return read_records(folder)


def spread(values: Sequence[float], form: str = "{:.1f}") -> str:
    """The mean ± the standard deviation."""
    return form.format(mean(values)) + (f" ± {form.format(stdev(values))}" if len(values) > 1 else "")
