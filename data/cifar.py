"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009, "Learning multiple layers of features from tiny images"), and where from."""

from __future__ import annotations

import io
import pickle
import tarfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from data.dataset import Dataset, Split
from data.download import Files, Wanted, found_or_fetched, from_url, lying_in
from fl.errors import DataError, reason


@dataclass(frozen=True)
class Cifar:
    """Where one of the two comes from, and what it must be.

    title: what messages call it. archive: the file's name in the data folder, as torchvision.datasets has it. sha256:
    of the archive. folder: within the archive, and beside it once torchvision has unpacked it. train, test: names of
    the files within. labels: the key of the labels in these. members_sha256: of the files within, by their names; empty
    if they are not known.
    """

    title: str
    archive: str
    url: str
    sha256: str
    folder: str
    train: Sequence[str]
    test: str
    labels: str
    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    members_sha256: Mapping[str, str] = field(default_factory=dict)


def cifar10(data_dir: Path) -> Dataset:
    """CIFAR-10: 50,000 training and 10,000 test images (3, 32, 32) as bytes, ten classes.

    Raises DataError when it is not in `data_dir` and cannot be fetched, or when a file there is corrupt.
    """
    return load("cifar10", CIFAR10, data_dir)


def cifar100(data_dir: Path) -> Dataset:
    """CIFAR-100 with its 100 fine labels, in the shapes of CIFAR-10. Raises as `cifar10` does."""
    return load("cifar100", CIFAR100, data_dir)


def load(name: str, kind: Cifar, data_dir: Path) -> Dataset:
    """The data set, from the unpacked folder or the archive in `data_dir`, or else fetched. Raises DataError."""
    sources = [(kind.url, lambda: {kind.archive: from_url(kind.url)})]
    wanted = Wanted(kind.title, data_dir, data_dir, {kind.archive: kind.sha256}, sources)
    try:
        if members := _unpacked(kind, data_dir):
            source = f"files in {data_dir / kind.folder}"
        else:
            files, source = found_or_fetched(wanted, lambda: lying_in(data_dir, wanted.hashes))
            members = _members(kind, files[kind.archive])
    except OSError as error:
        raise DataError(f"{error.filename or data_dir}: cannot be read ({reason(error)}); see --data_dir") from None
    train, test = _split(kind, [members[one] for one in kind.train]), _split(kind, [members[kind.test]])
    return Dataset(name, train, test, kind.classes, kind.mean, kind.std, source)


def _unpacked(kind: Cifar, data_dir: Path) -> Files:
    """The files of the folder that torchvision unpacks, if all are there and it is known what they must be."""
    folder = data_dir / kind.folder
    all_there = all((folder / name).exists() for name in kind.members_sha256)
    return lying_in(folder, kind.members_sha256) if all_there else {}


def _members(kind: Cifar, archive: bytes) -> Files:
    """The files within a verified archive."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        return {name: tar.extractfile(f"{kind.folder}/{name}").read() for name in (*kind.train, kind.test)}  # type: ignore[union-attr]


def _split(kind: Cifar, files: Sequence[bytes]) -> Split:
    """The images and labels of verified files, which are pickles; their hash says that they run nothing unknown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the files are of 2009, and NumPy warns of how its types were written then
        batches = [pickle.loads(raw, encoding="latin1") for raw in files]
    images = torch.cat([torch.as_tensor(batch["data"]) for batch in batches])  # (n, 3072), row after row of a channel
    labels = torch.cat([torch.as_tensor(batch[kind.labels]) for batch in batches])
    return Split(images.view(-1, 3, 32, 32), labels.long())


# fmt: off
CIFAR10 = Cifar(
    title="CIFAR-10",
    archive="cifar-10-python.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    folder="cifar-10-batches-py",
    train=("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
    test="test_batch",
    labels="labels",
    classes=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    members_sha256={
        "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
        "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
        "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
        "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
        "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
        "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
    },
)
CIFAR100 = Cifar(  # is read from its archive only, because only an MD5 of the files within is published
    title="CIFAR-100",
    archive="cifar-100-python.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    folder="cifar-100-python",
    train=("train",),
    test="test",
    labels="fine_labels",
    classes=100,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)
# fmt: on
