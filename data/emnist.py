"""EMNIST (Cohen, Afshar, Tapson and van Schaik 2017, arXiv 1702.05373): letters and digits by hand, in MNIST's shape.

All its splits are members of one archive, which is kept as it is and read anew for each run. Its MD5 is the one that
torchvision.datasets.EMNIST pins; no other hash of it is published.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

from torch import Tensor

from data.dataset import Dataset, Split, channel_statistics
from data.download import Wanted, found_or_fetched, from_url, lying_in
from data.idx import parse

URL = "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip"
ARCHIVE = "gzip.zip"
MD5 = "58c8d27c78d21e728a6bc7b3cc06412e"


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
    """One split from the archive. Mean and standard deviation are those of its training images."""
    folder, hashes = data_dir / "EMNIST" / "raw", {ARCHIVE: MD5}
    wanted = Wanted("EMNIST", data_dir, folder, hashes, [(URL, lambda: {ARCHIVE: from_url(URL)})])
    files, source = found_or_fetched(wanted, lambda: lying_in(folder, hashes))
    with zipfile.ZipFile(io.BytesIO(files[ARCHIVE])) as archive:
        train, test = (part(archive, f"gzip/emnist-{split}-{name}") for name in ("train", "test"))
    scale = channel_statistics(train.examples)
    return Dataset(f"emnist_{split}", train, test, classes, scale["mean"], scale["std"], source)


def part(archive: zipfile.ZipFile, name: str) -> Split:
    """The training or the test part. The files hold each image with its rows and columns exchanged."""

    def values(kind: str) -> Tensor:
        return parse(gzip.decompress(archive.read(f"{name}-{kind}-ubyte.gz")))

    return Split(values("images-idx3").transpose(1, 2).unsqueeze(1).contiguous(), values("labels-idx1").long())
