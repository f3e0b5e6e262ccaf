"""Data of a known shape for machines that have not the real one: seconds a round do not depend on what pixels show."""

from pathlib import Path

import torch

from data.dataset import Dataset, Split


def cifar(data_dir: Path) -> Dataset:
    """50,000 and 10,000 images (3, 32, 32)."""
    return made_up((3, 32, 32), 50_000, 10_000)


def digits(data_dir: Path) -> Dataset:
    """2,000 and 100 images (1, 28, 28)."""
    return made_up((1, 28, 28), 2_000, 100)


def made_up(shape: tuple[int, ...], train: int, test: int) -> Dataset:
    """Drawn bytes with drawn labels of ten classes."""
    draw = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        pixels = torch.randint(256, (n, *shape), dtype=torch.uint8, generator=draw)
        return Split(pixels, torch.randint(10, (n,), generator=draw))

    return Dataset("made up", split(train), split(test), classes=10, mean=0.5, std=0.29, source="made-up pixels")
