"""Images of your own, in one folder per class: --dataset folder --data_dir DIR. Decoded once, then read from a cache.

DIR/train/<class>/*  DIR/test/<class>/*      the two parts as they are
DIR/train/<class>/*, or DIR/<class>/*        --test_fraction of each class is held out for the test
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.dataset import Dataset, Split, channel_statistics
from data.decode import decode
from fl.errors import DataError, RunFolderError, reason
from fl.records import checkpoint
from fl.rng import derive
from fl.streams import warn

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
VERSION = 2  # of the cache; another version is decoded anew
STATISTICS = ("mean", "std")
NAMED = 3  # unreadable images that a message names


class Image(NamedTuple):
    """A file and the number of its class."""

    path: Path
    label: int


def folder(data_dir: Path, image_size: int, grey: bool, test_fraction: float, skip_bad: bool, seed: int) -> Dataset:
    """The images as bytes (n, C, S, S), C = 1 if grey and else 3, S = image_size; classes in alphabetical order.

    The largest square in the middle of an image is scaled to S x S pixels. Of 16 bits a channel the upper 8 count, and
    what is transparent is white. Mean and standard deviation are per channel, of the training images. The cache lies in
    `data_dir`, under a name that follows from the flags and from the names, sizes and times of the files; it is the
    same for every seed. Raises DataError (exit 3).
    """
    try:
        classes, train, test = found(data_dir)
        listed, n, is_drawn = [*train, *test], len(train), not test
        if is_drawn:
            train, test = by_class(train, len(classes), test_fraction, seed)
        content = decoded(data_dir, listed, n, image_size, grey, skip_bad)
    except OSError as error:
        raise DataError(f"--data_dir {data_dir}: cannot be read ({error.filename}: {reason(error)})") from None
    row = {image: i for i, image in enumerate(listed)}
    splits = []
    for name, part in (("train", train), ("test", test)):
        rows = torch.tensor([row[image] for image in part if content["good"][row[image]]], dtype=torch.int64)
        if len(rows) == 0:
            raise DataError(f"{data_dir}: none of the {name} images can be read")
        whole = int(rows[-1]) - int(rows[0]) + 1 == len(rows)  # a view of them does without a copy
        pixels = content["pixels"][int(rows[0]) : int(rows[-1]) + 1] if whole else content["pixels"][rows]
        splits.append(Split(pixels, torch.tensor([listed[i].label for i in rows.tolist()])))
    numbers = channel_statistics(splits[0].examples) if is_drawn else content
    return Dataset(
        "folder", splits[0], splits[1], classes=len(classes), mean=numbers["mean"], std=numbers["std"],
        source=f"images in {data_dir}",
    )  # fmt: skip


def found(data_dir: Path) -> tuple[list[str], list[Image], list[Image]]:
    """The names of the classes, and the training and the test images; no test images if there is no test folder."""
    if not data_dir.is_dir():
        raise DataError(f"--data_dir {data_dir}: no such folder; expected train/<class>/ with images in it")
    root = data_dir / "train" if (data_dir / "train").is_dir() else data_dir
    classes = subfolders(root)
    if root == data_dir and "test" in classes:
        raise DataError(f"{data_dir}: has test and no train; expected both, or neither and a folder for each class")
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
        raise DataError(f"{data_dir / 'test'}: holds no images; remove it, and a part of {root} is held out")
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
    others: list[Path] = []
    for name in names:
        visible = [path for path in (root / name).iterdir() if not path.name.startswith(".")]
        files = sorted(path for path in visible if path.suffix.lower() in SUFFIXES)
        others += sorted(set(visible) - set(files))
        if not files:
            raise DataError(f"{root / name}: holds no images; expected files that end in {', '.join(sorted(SUFFIXES))}")
        listed += [Image(path, number[name]) for path in files]
    if others:
        warn(f"{root}: {len(others)} files or folders are no images by their names, and are left out: {some(others)}")
    return listed


def some(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths[:NAMED])) + (", ..." if len(paths) > NAMED else "")


def by_class(listed: Sequence[Image], classes: int, fraction: float, seed: int) -> tuple[list[Image], list[Image]]:
    """Training and test images: `fraction` of each class, at least one and not all, is held out, drawn by the seed."""
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


def decoded(data_dir: Path, listed: Sequence[Image], n: int, size: int, grey: bool, skip: bool) -> dict[str, Any]:
    """pixels (all, C, S, S), good (all,), and mean and std of the first n images; from the cache, or written to it.

    good: whether the image can be read; its pixels are 0 otherwise.
    """
    cache = data_dir / f".decoded-{key(data_dir, listed, n, size, grey)}.pt"
    content: dict[str, Any] | None = None
    if cache.exists():
        try:
            content = checked(checkpoint.load(cache), len(listed), size, grey)
        except (RunFolderError, ValueError) as error:
            warn(f"{cache}: is not used, and written anew ({error})")
    is_new = content is None
    if content is None:
        pixels, good = decode([image.path for image in listed], size, grey)
        content = {"pixels": pixels, "good": good}
    bad = [image.path for image, is_good in zip(listed, content["good"].tolist(), strict=True) if not is_good]
    if bad and not skip:
        raise DataError(f"{some(bad)}: cannot be read as an image ({len(bad)} in all); --skip_bad leaves such out")
    if bad:
        warn(f"{len(bad)} files cannot be read as images and are left out: {some(bad)}")
    if is_new and content["good"][:n].any():
        content |= channel_statistics(content["pixels"][:n][content["good"][:n]])
        try:
            checkpoint.save(cache, content)
        except OSError as error:
            warn(f"{cache}: the decoded images cannot be kept ({reason(error)}), so the next run decodes them again")
    return content


def checked(content: Any, n: int, size: int, grey: bool) -> dict[str, Any]:
    """The content of a cache. Raises ValueError if it is not what `decoded` writes, because anyone may seal a file."""
    channels = 1 if grey else 3
    if not isinstance(content, dict) or set(content) != {"pixels", "good", *STATISTICS}:
        raise ValueError("it holds something else")
    for name, dtype, shape in (("pixels", torch.uint8, (n, channels, size, size)), ("good", torch.bool, (n,))):
        tensor = content[name]
        if not isinstance(tensor, Tensor) or (tensor.dtype, tuple(tensor.shape)) != (dtype, shape):
            raise ValueError(f"its {name} are of another kind")
    for name in STATISTICS:
        if not isinstance(content[name], list) or [type(number) for number in content[name]] != [float] * channels:
            raise ValueError(f"its {name} is of another kind")
    return content


def key(data_dir: Path, listed: Sequence[Image], n: int, size: int, grey: bool) -> str:
    """Names what has been decoded: the flags, and each file's name, size, time of change and label."""
    digest = hashlib.sha256(repr((VERSION, n, size, grey)).encode())
    for path, label in listed:
        status = path.stat()
        name = os.fsencode(path.relative_to(data_dir))
        digest.update(name + f" {status.st_size} {status.st_mtime_ns} {label}\n".encode())
    return digest.hexdigest()[:16]
