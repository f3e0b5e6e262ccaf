"""Data sets of IDX files, such as MNIST's: found in a folder or fetched into it, verified, parsed.

Whatever the source, the raw files must have the pinned SHA-256; mirrors compress them differently.
"""

from __future__ import annotations

import gzip
import hashlib
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.dataset import Dataset, Split
from fl.errors import DataError, reason
from fl.files import clear_stale, locked, write_atomic
from fl.streams import warn

Files = dict[str, bytes]  # raw IDX contents by file name


@dataclass(frozen=True)
class IdxSet:
    """Where one IDX data set comes from and what it must be."""

    folder: str  # in the data folder and in torchvision.datasets
    sha256: dict[str, str]  # of the raw files
    mean: float
    std: float
    sources: tuple[tuple[str, Callable[[IdxSet], Files]], ...]


class SourceError(Exception):
    """A source cannot serve; the next one is tried."""


def load(name: str, idx_set: IdxSet, data_dir: Path) -> Dataset:
    """The data set, from the files in `data_dir` or the first source that serves it. Raises DataError."""
    files, source = find_or_fetch(idx_set, data_dir / idx_set.folder / "raw")
    images_train, labels_train, images_test, labels_test = (_parse(files[file]) for file in idx_set.sha256)
    return Dataset(
        name,
        Split(images_train.unsqueeze(1), labels_train.long()),
        Split(images_test.unsqueeze(1), labels_test.long()),
        classes=10,
        mean=idx_set.mean,
        std=idx_set.std,
        source=source,
    )


def find_or_fetch(idx_set: IdxSet, folder: Path) -> tuple[Files, str]:
    """The verified files, and where they came from: from `folder`, or fetched into it. Raises DataError."""
    files = _read_present(idx_set, folder)
    if len(files) == len(idx_set.sha256):
        return files, f"files in {folder}"
    return _fetch(idx_set, folder)


def _parse(content: bytes) -> Tensor:
    """A verified IDX file of bytes: two zeros, type 8, the number of dimensions, their sizes, the values."""
    dimensions = content[3]
    sizes = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * dimensions).view(sizes)


def _verify(path: Path, raw: bytes, expected: str) -> bytes:
    found = hashlib.sha256(raw).hexdigest()
    if found != expected:
        raise DataError(
            f"{path}: corrupt: expected SHA-256 {expected}, found {found}; delete it to have it fetched again"
        )
    return raw


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
                files[name] = _verify(raw, raw.read_bytes(), expected)
            elif zipped.exists():
                files[name] = _verify(zipped, _unzip(zipped), expected)
        except OSError as error:
            raise DataError(f"{error.filename or raw}: cannot be read ({reason(error)}); see --data_dir") from None
    return files


def _fetch(idx_set: IdxSet, folder: Path) -> tuple[Files, str]:
    """Get the data set from the first source that serves it and keep it in `folder`.

    Two runs may ask at once: the second waits, then finds the files of the first. No folder is made before there is
    something to put into it, so neither run ever removes a folder in which the other may be at work.
    """
    try:
        with locked(_fetch_lock(folder)):
            files = _read_present(idx_set, folder)
            if len(files) == len(idx_set.sha256):
                return files, f"files in {folder}"
            fetched, source = _first_source(idx_set, folder)
            if not folder.parents[1].exists():
                warn(f"--data_dir {folder.parents[1]}: did not exist; it is made, and holds {idx_set.folder} now")
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / ".lock"):
                clear_stale(folder, idx_set.sha256)
                for name, raw in fetched.items():
                    if name not in files:
                        write_atomic(folder / name, raw)
            return fetched, source
    except OSError as error:
        raise DataError(
            f"--data_dir: cannot write {error.filename or folder} ({reason(error)}); name another folder"
        ) from None


def _fetch_lock(folder: Path) -> Path:
    """The lock of who fetches what belongs into `folder`: in it, or in the first folder above it that is there."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    missing = folder.relative_to(there).parts
    return there / f".{missing[0] if missing else folder.name}.lock"


def _first_source(idx_set: IdxSet, folder: Path) -> tuple[Files, str]:
    tried = [f"files in {folder} (not all there)"]
    for label, serve in idx_set.sources:
        print(f"data: fetching {idx_set.folder} from {label} ...", file=sys.stderr, flush=True)
        try:
            files = serve(idx_set)
            for name, expected in idx_set.sha256.items():
                if hashlib.sha256(files[name]).hexdigest() != expected:
                    raise SourceError(f"its {name} has another SHA-256 than {expected}")
            return files, label
        except (SourceError, OSError) as error:
            tried.append(f"{label} ({reason(error)[:160]})")
    raise DataError(
        f"{idx_set.folder}: nothing could serve it. Tried: {'; '.join(tried)}. "
        f"Put {', '.join(idx_set.sha256)} (raw or .gz) into {folder}, or name their folder with --data_dir"
    )


def idx_bytes(values: Tensor) -> bytes:
    """A uint8 tensor as an IDX file."""
    header = bytes([0, 0, 8, values.dim()]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.contiguous().numpy().tobytes()
