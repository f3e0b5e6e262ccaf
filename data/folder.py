"""Images of your own, in one folder per class: --dataset folder --data_dir DIR. Decoded once, then read from a cache.

DIR/train/<class>/*  DIR/test/<class>/*      the two parts as they are
DIR/train/<class>/*, or DIR/<class>/*        --test_fraction of each class is put aside for the test
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.dataset import Dataset, Split
from fl import checkpoint
from fl.errors import DataError, RunFolderError, reason
from fl.rng import derive
from fl.streams import warn

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
VERSION = 1  # of the cache; another version is decoded anew
PARTS, STATISTICS = ("train", "test"), ("mean", "std")
NAMED = 3  # unreadable images that a message names


class Image(NamedTuple):
    """A file and the number of its class."""

    path: Path
    label: int


def folder(data_dir: Path, image_size: int, grey: bool, test_fraction: float, skip_bad: bool, seed: int) -> Dataset:
    """The images as bytes (n, C, S, S), C = 1 if grey and else 3, S = image_size; classes in alphabetical order.

    The largest square in the middle of an image is scaled to S x S pixels. Mean and deviation are those of the
    training images, per channel. The cache lies in `data_dir`, under a name that follows from the flags and from the
    names, sizes and times of the files. Raises DataError (exit 3).
    """
    try:
        classes, train, test = found(data_dir)
        if not test:
            train, test = held_out(train, len(classes), test_fraction, seed)
        content = decoded(data_dir, train, test, image_size, grey, skip_bad)
    except OSError as error:
        raise DataError(f"--data_dir {data_dir}: cannot be read ({error.filename}: {reason(error)})") from None
    return Dataset(
        "folder",
        Split(content["train"], content["train_labels"]),
        Split(content["test"], content["test_labels"]),
        classes=len(classes),
        mean=content["mean"],
        std=content["std"],
        source=f"images in {data_dir}",
    )


def found(data_dir: Path) -> tuple[list[str], list[Image], list[Image]]:
    """The names of the classes, and the training and the test images; no test images if there is no test folder."""
    if not data_dir.is_dir():
        raise DataError(f"--data_dir {data_dir}: no such folder; expected train/<class>/ with images in it")
    root = data_dir / "train" if (data_dir / "train").is_dir() else data_dir
    classes = subfolders(root)
    if len(classes) < 2:
        held = f"holds {len(classes)} folder{'s' * (len(classes) != 1)}"
        raise DataError(f"{root}: {held}; expected one for each of two or more classes, with images in it")
    train = images(root, classes)
    if root == data_dir or not (data_dir / "test").is_dir():
        return classes, train, []
    unknown = sorted(set(subfolders(data_dir / "test")) - set(classes))
    if unknown:
        raise DataError(f"{data_dir / 'test' / unknown[0]}: a class that {root} has not; rename it or take it away")
    test = images(data_dir / "test", subfolders(data_dir / "test"), classes)
    if not test:
        raise DataError(f"{data_dir / 'test'}: holds no images; take it away to have some of {root} put aside")
    return classes, train, test


def class_names(data_dir: Path) -> list[str]:
    """In their order. Raises as `folder` does."""
    return found(data_dir)[0]


def subfolders(place: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(place) if entry.is_dir() and not entry.name.startswith("."))


def images(root: Path, names: Sequence[str], classes: Sequence[str] | None = None) -> list[Image]:
    """The images of these classes; other files are passed over. Raises DataError for a class without any."""
    number = {name: label for label, name in enumerate(classes or names)}
    listed: list[Image] = []
    for name in names:
        visible = (path for path in (root / name).iterdir() if not path.name.startswith("."))
        files = sorted(path for path in visible if path.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError(f"{root / name}: holds no images; expected files that end in {', '.join(sorted(SUFFIXES))}")
        listed += [Image(path, number[name]) for path in files]
    return listed


def held_out(listed: Sequence[Image], classes: int, fraction: float, seed: int) -> tuple[list[Image], list[Image]]:
    """Training and test images: `fraction` of each class is put aside, one at least and not all, drawn by the seed."""
    train: list[Image] = []
    test: list[Image] = []
    by_class: list[list[Image]] = [[] for _ in range(classes)]
    for image in listed:
        by_class[image.label].append(image)
    for label, own in enumerate(by_class):
        if len(own) < 2:
            raise DataError(f"{own[0].path.parent}: holds one image; expected two or more, one of them for the test")
        count = min(max(round(fraction * len(own)), 1), len(own) - 1)
        aside = set(random.Random(derive(seed, "test", label)).sample(range(len(own)), count))
        test += [image for i, image in enumerate(own) if i in aside]
        train += [image for i, image in enumerate(own) if i not in aside]
    return train, test


def decoded(
    data_dir: Path, train: Sequence[Image], test: Sequence[Image], size: int, grey: bool, skip: bool
) -> dict[str, Any]:
    """Both parts as tensors with the mean and deviation of the first: from the cache, or decoded and put there."""
    cache = data_dir / f".decoded-{key(data_dir, [*train, *test], len(train), size, grey, skip)}.pt"
    if cache.exists():
        try:
            return checked(checkpoint.load(cache), size, grey)
        except (RunFolderError, ValueError) as error:
            warn(f"{cache}: is not used, and written anew ({error})")
    pixels, bad = decode([image.path for image in (*train, *test)], size, grey)
    if bad:
        which = ", ".join(str(path) for path in bad[:NAMED]) + (", ..." if len(bad) > NAMED else "")
        if not skip:
            raise DataError(f"{which}: cannot be read as an image ({len(bad)} in all); --skip_bad leaves such out")
        warn(f"{len(bad)} files cannot be read as images and are left out: {which}")
    left_out = set(bad)
    good = torch.tensor([image.path not in left_out for image in (*train, *test)])
    labels = torch.tensor([image.label for image in (*train, *test)])
    n = len(train)
    content: dict[str, Any] = {
        "train": pixels[:n][good[:n]], "train_labels": labels[:n][good[:n]],
        "test": pixels[n:][good[n:]], "test_labels": labels[n:][good[n:]],
    }  # fmt: skip
    for part in PARTS:
        if len(content[part]) == 0:
            raise DataError(f"{data_dir}: none of the {part} images can be read")
    content |= statistics(content["train"])
    try:
        checkpoint.save(cache, content)
    except OSError as error:
        warn(f"{cache}: the decoded images cannot be kept ({reason(error)}), so the next run decodes them again")
    return content


def checked(content: Any, size: int, grey: bool) -> dict[str, Any]:
    """The content of a cache. Raises ValueError if it is not what `decoded` writes, because anyone may seal a file."""
    channels = 1 if grey else 3
    if not isinstance(content, dict) or set(content) != {*PARTS, *(f"{part}_labels" for part in PARTS), *STATISTICS}:
        raise ValueError("it holds something else")
    for part in PARTS:
        x, y = content[part], content[f"{part}_labels"]
        good = isinstance(x, Tensor) and isinstance(y, Tensor) and x.dtype == torch.uint8 and y.dtype == torch.int64
        if not good or x.shape[1:] != (channels, size, size) or y.shape != x.shape[:1]:
            raise ValueError(f"its {part} images are of another kind")
    for name in STATISTICS:
        if not isinstance(content[name], list) or [type(number) for number in content[name]] != [float] * channels:
            raise ValueError(f"its {name} is of another kind")
    return content


def key(data_dir: Path, listed: Sequence[Image], n: int, size: int, grey: bool, skip: bool) -> str:
    """Names what has been decoded: the flags, and each file's name, size, time of change and label."""
    digest = hashlib.sha256(repr((VERSION, n, size, grey, skip)).encode())
    for path, label in listed:
        status = path.stat()
        name = os.fsencode(path.relative_to(data_dir))
        digest.update(name + f" {status.st_size} {status.st_mtime_ns} {label}\n".encode())
    return digest.hexdigest()[:16]


def decode(paths: Sequence[Path], size: int, grey: bool) -> tuple[Tensor, list[Path]]:
    """The images as bytes (n, C, size, size), and which of them cannot be read."""
    from tqdm import tqdm

    pixels = torch.zeros(len(paths), 1 if grey else 3, size, size, dtype=torch.uint8)

    def one(i: int) -> bool:
        try:
            pixels[i] = square(paths[i], size, grey)
        except Exception:  # whatever a decoder makes of a file that is none of its own
            return False
        return True

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without Python's lock
        shown = tqdm(
            pool.map(one, range(len(paths)), chunksize=64), total=len(paths), desc="decoding", unit="image",
            leave=False, disable=None,
        )  # fmt: skip
        readable = list(shown)
    return pixels, [path for path, good in zip(paths, readable, strict=True) if not good]


def square(path: Path, size: int, grey: bool) -> Tensor:
    """The middle of an image, upright, as bytes (C, size, size)."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    mode = "L" if grey else "RGB"
    with Pillow.open(path) as file:
        file.draft(mode, (size, size))  # lets JPEG decode a smaller image, if that is large enough
        image = ImageOps.exif_transpose(file).convert(mode)
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Pillow.Resampling.BILINEAR)
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(size, size, len(mode)).permute(2, 0, 1)


def statistics(pixels: Tensor) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel of (n, C, S, S), as numbers in [0, 1]; no deviation is 0."""
    mean, std = [], []
    for channel in pixels.unbind(1):
        counts = torch.bincount(channel.reshape(-1), minlength=256).double()
        values = torch.arange(256, dtype=torch.float64) / 255
        average = (counts * values).sum() / counts.sum()
        mean.append(float(average))
        std.append(float(((counts * (values - average) ** 2).sum() / counts.sum()).sqrt()) or 1.0)
    return {"mean": mean, "std": std}
