"""Data sets of IDX files, such as MNIST's: found in a folder or fetched into it, verified, parsed.

The SHA-256 is that of the raw files, because mirrors compress them differently.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.dataset import Dataset, Split
from data.download import Files, Wanted, found_or_fetched, verified
from fl.errors import DataError, reason


@dataclass(frozen=True)
class IdxSet:
    """Where one IDX data set comes from and what it must be."""

    folder: str  # in the data folder and in torchvision.datasets
    sha256: dict[str, str]  # of the raw files
    mean: float
    std: float
    sources: tuple[tuple[str, Callable[[IdxSet], Files]], ...]


def load(name: str, idx_set: IdxSet, data_dir: Path) -> Dataset:
    """The data set, from the files in `data_dir` or the first source that serves it. Raises DataError."""
    folder = data_dir / idx_set.folder / "raw"
    sources = [(label, lambda serve=serve: serve(idx_set)) for label, serve in idx_set.sources]
    wanted = Wanted(idx_set.folder, data_dir, folder, idx_set.sha256, sources, " (raw or .gz)")
    files, source = found_or_fetched(wanted, lambda: _read_present(idx_set, folder))
    images_train, labels_train, images_test, labels_test = (parse(files[file]) for file in idx_set.sha256)
    return Dataset(
        name,
        Split(images_train.unsqueeze(1), labels_train.long()),
        Split(images_test.unsqueeze(1), labels_test.long()),
        classes=10,
        mean=idx_set.mean,
        std=idx_set.std,
        source=source,
    )


def parse(content: bytes) -> Tensor:
    """A verified IDX file of bytes: two zeros, type 8, the number of dimensions, their sizes, the values."""
    dimensions = content[3]
    sizes = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * dimensions).view(sizes)


def _unzip(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{path}: corrupt: not a whole gzip file; delete it to have it fetched again") from None


def _read_present(idx_set: IdxSet, folder: Path) -> Files:
    """The files that are there, raw or gzip, each verified."""
    files = {}
    for name, expected in idx_set.sha256.items():
        raw, zipped = folder / name, folder / f"{name}.gz"
        try:
            if raw.exists():
                files[name] = verified(raw, raw.read_bytes(), expected)
            elif zipped.exists():
                files[name] = verified(zipped, _unzip(zipped), expected)
        except OSError as error:
            raise DataError(f"{error.filename or raw}: cannot be read ({reason(error)}); see --data_dir") from None
    return files


def idx_bytes(values: Tensor) -> bytes:
    """A uint8 tensor as an IDX file."""
    header = bytes([0, 0, 8, values.dim()]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.contiguous().numpy().tobytes()
