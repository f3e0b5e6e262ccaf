"""What papers report, as data with its source, and each cell of their tables as flags. Imports no torch.

A new paper is one file of facts, one of flags, and one entry here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fl.published.cells import PublishedCell
from fl.published.mcmahan2017 import mcmahan2017
from fl.published.niid_bench import niid_bench

PAPERS: dict[str, Callable[[dict[str, Any]], Sequence[PublishedCell]]] = {
    "mcmahan2017": mcmahan2017,
    "niid_bench": niid_bench,
}


def targets_of(paper: str) -> dict[str, PublishedCell]:
    """The cells of the paper's tables, by name."""
    facts = json.loads((Path(__file__).parent / f"{paper}.json").read_text())
    return {one.name: one for one in PAPERS[paper](facts)}
