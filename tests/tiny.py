"""Data sets small enough that a whole run takes milliseconds. `tiny` is three noisy patterns of 8x8 pixels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.dataset import IGNORED, Dataset, Split

CLASSES = 3
TRAIN, TEST = 61, 20


def tiny(data_dir: Path, shape: tuple[int, int, int] = (1, 8, 8)) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randint(0, 200, (CLASSES, *shape), generator=generator)

    def split(n: int) -> Split:
        labels = torch.randint(0, CLASSES, (n,), generator=generator)
        noise = torch.randint(0, 56, (n, *shape), generator=generator)
        return Split((patterns[labels] + noise).to(torch.uint8), labels)

    return Dataset("tiny", split(TRAIN), split(TEST), CLASSES, mean=0.5, std=0.25, source="made up")


def tiny16(data_dir: Path) -> Dataset:
    """The same in 16x16 pixels, for networks that need as many."""
    return tiny(data_dir, (1, 16, 16))


def floats(name: str, shape: tuple[int, ...], **more: Any) -> Dataset:
    """Three patterns with normal noise."""
    generator = torch.Generator().manual_seed(2)
    patterns = torch.randn(CLASSES, *shape, generator=generator)

    def split(n: int) -> Split:
        labels = torch.randint(0, CLASSES, (n,), generator=generator)
        return Split(patterns[labels] + torch.randn(n, *shape, generator=generator), labels)

    return Dataset(name, split(TRAIN), split(TEST), CLASSES, **more)


def jittered(data_dir: Path) -> Dataset:
    """Floats in two channels, each normalised by its own mean; every visit flips and scales them."""
    return floats("jittered", (2, 8, 8), mean=(0.5, -0.5), std=(2.0, 1.0), augment=jitter)


def jitter(x: Tensor, draws: Tensor) -> Tensor:
    """Bit 0 says whether an example (C, H, W) is flipped, bits 1 to 20 by how much it is scaled, from 1 to 2."""
    draws = draws.view(-1, 1, 1, 1)
    scale = 1 + (draws >> 1 & 0xFFFFF).to(x.dtype) / 2**20
    return torch.where((draws & 1).bool(), x.flip(-1), x) * scale


def vectors(data_dir: Path) -> Dataset:
    return floats("vectors", (5,))


def tokens(data_dir: Path, several: bool = False) -> Dataset:
    """Six words of a vocabulary of nine, in which each follows from the one before it; the last is the target."""
    generator = torch.Generator().manual_seed(3)
    follows = torch.randperm(9, generator=generator)

    def split(n: int) -> Split:
        words = [torch.randint(0, 9, (n,), generator=generator)]
        for _ in range(6):
            words.append(follows[words[-1]])
        text = torch.stack(words, 1)
        return Split(text[:, :-1], text[:, 1:] if several else text[:, -1])

    return Dataset("tokens", split(TRAIN), split(TEST), 9)


def ragged_tokens(data_dir: Path) -> Dataset:
    """The same, and sequences differ in length: the targets beyond do not count."""

    def shortened(part: Split) -> Split:
        lengths = torch.arange(len(part)) % 6 + 1
        return Split(part.examples, part.targets.masked_fill(torch.arange(6) >= lengths[:, None], IGNORED))

    data = next_tokens(data_dir)
    return replace(data, train=shortened(data.train), test=shortened(data.test))


def next_tokens(data_dir: Path) -> Dataset:
    """The same, and each word's target is the next one."""
    return tokens(data_dir, several=True)
