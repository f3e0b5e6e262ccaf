"""The table of a comparison and its differences in one file: as Markdown, and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from fl.comparing.differences import LEVEL, about, difference_cells, differences, is_telling, reference
from fl.comparing.tables import Row, as_markdown, cells, escaped


def markdown_report(rows: Sequence[Row]) -> str:
    """The figures of the screen: the table and, where experiments share seeds, the differences."""
    text = as_markdown(cells(rows))
    if is_telling(differences(rows)):
        text += f"\n{escaped(about(rows))}\n\n{as_markdown(difference_cells(rows))}"
    return text


def json_report(rows: Sequence[Row]) -> str:
    """Every number in full, in the units of the records: what is not known is null.

    `experiments` has of each quantity the value of every seed, mean, std and n; `differences` has, against the first
    experiment with figures, mean, half_interval, n and within_noise.
    """
    return json.dumps({"experiments": [_row(row) for row in rows], "differences": _differences(rows)}, indent=2) + "\n"


def _row(row: Row) -> dict[str, Any]:
    quantities = {}
    for quantity, values in row.values.items():
        known = [value for value in values if value is not None]
        quantities[quantity.name] = {
            "by_seed": dict(zip(map(str, row.seeds), values, strict=True)),
            "mean": mean(known) if known else None,
            "std": stdev(known) if len(known) > 1 else None,
            "n": len(known),
        }
    return {"experiment": row.label, "seeds": row.seeds, "quantities": quantities}


def _differences(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "against": reference(rows).label,
        "level": LEVEL,
        "experiments": {
            label: {
                quantity.name: {
                    "mean": one.mean, "half_interval": one.half, "n": one.n,
                    "within_noise": None if one.half is None else one.is_noise,
                }
                for quantity, one in row.items()
            }
            for label, row in differences(rows).items()
        },
    }  # fmt: skip
