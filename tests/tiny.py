"""A data set small enough that a whole run takes milliseconds: three noisy patterns of 8x8 pixels."""

from pathlib import Path

import torch

from data.dataset import Dataset, Split

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
