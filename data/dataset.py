"""A data set as the runner sees it: uint8 images on the device, normalised when a batch is made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    images: Tensor  # (n, C, H, W) uint8
    labels: Tensor  # (n,) int64

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Train and test examples, and what turns them into inputs of a model.

    mean, std: of the training pixels, scaled to [0, 1]. source: where the files came from, for the records.
    dtype: of the inputs that `batch` makes.
    """

    name: str
    train: Split
    test: Split
    classes: int
    mean: float
    std: float
    source: str
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Dataset:
        """The same data set with both splits resident on `device`."""
        moved = (Split(s.images.to(device), s.labels.to(device)) for s in (self.train, self.test))
        train, test = moved
        return replace(self, train=train, test=test, dtype=dtype)

    def sha256(self) -> str:
        """Over the pixels and labels of both splits, so that a resumed run trains on what it began with."""
        digest = hashlib.sha256()
        for tensor in (self.train.images, self.train.labels, self.test.images, self.test.labels):
            digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def batch(self, split: Split, indices: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The examples at `indices` (B,): normalised images (B, C, H, W) and labels (B,)."""
        return self.normalise(split.images[indices]), split.labels[indices]

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 pixels of any shape to (pixel / 255 - mean) / std."""
        scale = 1 / (255 * self.std)
        return images.to(self.dtype).mul_(scale).sub_(self.mean / self.std)
