"""What clients with data of their own must agree on before the first round, so that an input means the same to all.

For a table, they agree on its classes, the mean and standard deviation of each column of numbers, and the categories of
each column of text (data/schema.py). For images, they agree on the names of the classes, and on the mean and standard
deviation of the pixels. Each client sends these summaries of its own training examples, and gets back those of all
examples together. Apart from these summaries, all that a client reveals of its examples is models, gradients, counts,
scores and a hash. If a category, or the count of a class, is itself a secret, leave the column out with --drop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.folder import class_names
from data.schema import from_plain, merged, plain
from data.table import Rows, dataset, rows_of
from fl.config import Config
from fl.errors import DataError
from fl.load import as_asked, load_data

Words = dict[str, Any]


def learn(config: Config) -> Words:
    """What this machine's training examples have."""
    if config.dataset == "csv":
        return {"table": plain(rows(config).learnt())}
    data = load_data(config)
    names = class_names(Path(config.data_dir)) if config.dataset == "folder" else []
    return {"n": len(data.train), "names": names, "mean": listed(data.mean), "std": listed(data.std)}


def agreed(learnt: Sequence[Mapping[str, Any]]) -> Words:
    """What all have together. Raises DataError for data that do not fit together, or an answer that is malformed."""
    try:
        if any("table" in one for one in learnt):
            return {"table": plain(merged([from_plain(one["table"]) for one in learnt]))}
        names = [list(map(str, one["names"])) for one in learnt]
        if any(one != names[0] for one in names):
            raise DataError(f"the clients' folders have other classes: {names}")
        n = [int(one["n"]) for one in learnt]
        mean, std = [], []
        for channel in range(len(learnt[0]["mean"])):
            means, stds = ([float(one[name][channel]) for one in learnt] for name in ("mean", "std"))
            mean.append(weighted(n, means))
            square = weighted(n, [m**2 + s**2 for m, s in zip(means, stds, strict=True)])
            std.append(math.sqrt(max(square - mean[-1] ** 2, 0.0)))
        if not all(math.isfinite(value) for value in (*mean, *std)) or min(std, default=0) <= 0 or min(n) < 1:
            raise ValueError(mean, std)
        return {"names": names[0], "mean": mean, "std": std}
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError):
        raise DataError("what a client has learnt from its data is malformed, or of another kind of data") from None


def load(config: Config, words: Mapping[str, Any]) -> Dataset:
    """This machine's data, with what all have agreed on."""
    if "table" in words:
        return as_asked(dataset(Path(config.data_dir), rows(config), from_plain(words["table"])), config)
    data, mean, std = load_data(config), words["mean"], words["std"]
    return replace(data, mean=mean if len(mean) > 1 else mean[0], std=std if len(std) > 1 else std[0])


def rows(config: Config) -> Rows:
    c = config
    return rows_of(Path(c.data_dir), c.label, c.client, c.drop, c.test_fraction, c.seed, is_part=True)


def listed(value: float | Sequence[float]) -> list[float]:
    return [value] if isinstance(value, int | float) else list(value)


def weighted(n: Sequence[int], values: Sequence[float]) -> float:
    return sum(count * value for count, value in zip(n, values, strict=True)) / sum(n)
