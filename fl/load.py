"""The data set that --dataset names: one of ours, or what a function of the user's own returns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from data.arrays import SHAPES, from_arrays
from data.augment import normalised
from data.dataset import IGNORED, Dataset, Split
from fl.config import DEFAULTS, Config
from fl.errors import FlagError
from fl.names import blaming, entry_of, is_own, named, refuse
from fl.parts import callable_of, flags_of
from fl.returned import are_owners, kind_of

DATASET = f"a function (data_dir, flags by their names) that returns a data.dataset.Dataset, {SHAPES}"


def load_data(config: Config) -> Dataset:
    """The data set of --dataset, --augment and --normalise, on the CPU. Raises DataError (exit 3) and FlagError.

    Arguments of its function after the first are flags.
    """
    flag, value = "dataset", config.dataset
    if entry_of(flag, value).of_the_user and config.data_dir == DEFAULTS["data_dir"]:
        raise FlagError(f"--dataset {value}: needs --data_dir, which says where your data are")
    make = callable_of(flag, value, DATASET)
    with blaming(flag, value, DATASET):
        made: Any = make(Path(config.data_dir), **flags_of(make, config, after=1))
        if is_own(flag, value) and isinstance(made, Mapping | tuple):
            made = from_arrays(value, made, config.test_fraction, config.seed)
    if is_own(flag, value):
        _check(value, made)
    return as_asked(made, config)


def as_asked(data: Dataset, config: Config) -> Dataset:
    """The data set with --augment and --normalise."""
    return normalised(named("augment", config.augment)(data), config.normalise)


def _check(value: str, data: Any) -> None:
    """Raise FlagError unless what the user's function returned is a Dataset that everything else can work with."""
    flag = "dataset"
    if not isinstance(data, Dataset):
        refuse(flag, value, f"returned {kind_of(data)}; expected {DATASET}")
    for name, part in (("train", data.train), ("test", data.test)):
        tensors = (part.examples, part.targets) if isinstance(part, Split) else ()
        if not tensors or not all(isinstance(one, torch.Tensor) for one in tensors):
            refuse(flag, value, f"{name} is {kind_of(part)}; expected a data.dataset.Split of two tensors")
        x, y = part.examples, part.targets
        if len(x) != len(y) or len(y) == 0:
            has = f"{name} has {len(x)} examples and {len(y)} targets"
            refuse(flag, value, f"{has}; expected the same number of both, and at least one")
        counts = (y >= 0) & (y < data.classes)
        if y.dim() > 1:
            counts[:, 1:] |= y[:, 1:] == IGNORED
        if y.dtype != torch.int64 or not counts.all():
            refuse(flag, value, f"{name} has other targets than int64 from 0 to classes - 1 = {data.classes - 1}")
    one, other = data.train.examples, data.test.examples
    if (one.dtype, one.shape[1:]) != (other.dtype, other.shape[1:]):
        kinds = [f"{x.dtype} {tuple(x.shape[1:])}" for x in (one, other)]
        refuse(flag, value, f"has training examples of {kinds[0]} and test examples of {kinds[1]}; expected one kind")
    if data.clients is not None and not are_owners(data.clients, len(data.train)):
        refuse(flag, value, "has clients that are not (n,) int64 on the CPU, in which each of 0 to K - 1 occurs")
    with blaming(flag, value, "inputs out of its first examples"):
        draws = torch.zeros(2, dtype=torch.int64)
        plain, drawn = data.batch(data.train, slice(0, 2))[0], data.inputs(torch.arange(2) % len(data.train), draws)
    if not (torch.isfinite(plain).all() and torch.isfinite(drawn).all()):
        refuse(flag, value, f"makes inputs that are not finite (mean is {data.mean}, std is {data.std})")
