"""EMNIST (Cohen, Afshar, Tapson and van Schaik 2017, arXiv 1702.05373): letters and digits by hand, in MNIST's shape.

All its splits are members of one archive, which is kept as it is and read anew for each run. Its MD5 is the one that
torchvision.datasets.EMNIST pins; no other hash of it is published.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import urllib.request
import zipfile
from http.client import HTTPException
from pathlib import Path

from torch import Tensor

from data.dataset import Dataset, Split
from data.folder import statistics
from data.idx import _parse
from fl.errors import DataError, reason
from fl.files import locked, write_atomic

URL = "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip"
MD5 = "58c8d27c78d21e728a6bc7b3cc06412e"
TIMEOUT_SECONDS = 20  # without a byte from the other side


def emnist_balanced(data_dir: Path) -> Dataset:
    """112,800 training and 18,800 test images (1, 28, 28) of 47 classes, as many of each.

    Letters whose capitals look the same are one class. Raises DataError (exit 3) when the archive is corrupt, or is not
    in data_dir/EMNIST/raw, where torchvision keeps it, and cannot be fetched.
    """
    return load("balanced", 47, data_dir)


def emnist_byclass(data_dir: Path) -> Dataset:
    """697,932 training and 116,323 test images of 62 classes: digits, capitals, small letters. Raises as the other."""
    return load("byclass", 62, data_dir)


def load(split: str, classes: int, data_dir: Path) -> Dataset:
    """One split out of the archive. Mean and deviation are those of its training images."""
    path = data_dir / "EMNIST" / "raw" / "gzip.zip"
    try:
        content, source = (path.read_bytes(), f"{path}") if path.exists() else (fetched(path), URL)
    except OSError as error:
        raise DataError(
            f"{error.filename or path}: cannot be read or written ({reason(error)}); see --data_dir"
        ) from None
    if (found := md5(content)) != MD5:
        raise DataError(f"{path}: corrupt: expected MD5 {MD5}, found {found}; delete it to have it fetched again")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        train, test = (part(archive, f"gzip/emnist-{split}-{name}") for name in ("train", "test"))
    scale = statistics(train.examples)
    return Dataset(f"emnist_{split}", train, test, classes, scale["mean"], scale["std"], source)


def part(archive: zipfile.ZipFile, name: str) -> Split:
    """The training or the test part. The files hold each image with its rows and columns exchanged."""

    def values(kind: str) -> Tensor:
        return _parse(gzip.decompress(archive.read(f"{name}-{kind}-ubyte.gz")))

    return Split(values("images-idx3").transpose(1, 2).unsqueeze(1).contiguous(), values("labels-idx1").long())


def fetched(path: Path) -> bytes:
    """The archive, fetched and kept at `path`. Raises DataError; then nothing stays behind."""
    print(f"data: fetching EMNIST, over 500 MB, from {URL} ...", file=sys.stderr, flush=True)
    try:
        with urllib.request.urlopen(URL, timeout=TIMEOUT_SECONDS) as response:
            content: bytes = response.read()
        if md5(content) != MD5:
            raise ValueError(f"its MD5 is not {MD5}")
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(
            f"EMNIST: {URL} does not serve it ({reason(error)[:160]}); put gzip.zip into {path.parent}, "
            "or name another folder with --data_dir"
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent / ".lock"):
        write_atomic(path, content)
    return content


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
