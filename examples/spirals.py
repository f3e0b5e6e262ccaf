"""A model and a data set of one's own, in one file that changes nothing in the package.

    python3 run_federated.py --model examples/spirals.py:Net --dataset examples/spirals.py:load \\
        --optimizer sgd --init_lr 0.3 --batch_size 10 --global_epoch 10

Three arms of a spiral, as points (x, y), stand in for your data: put in their place what reads your files.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from data.dataset import Dataset, Split

ARMS = 3


class Net(nn.Sequential):
    """--model takes a class or a function of the shape of one example, here (2,), and the number of classes."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__(
            nn.Flatten(),
            nn.Linear(math.prod(shape), 64),
            nn.ReLU(),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Linear(64, classes),
        )


def load(data_dir: Path) -> Dataset:
    """--dataset takes a function of --data_dir, where your files may lie; this one reads none.

    A Split is examples (n, ...), of bytes, floats or integers, and targets (n,) int64 from 0 to classes - 1.
    """
    generator = torch.Generator().manual_seed(0)  # the same data in every run, whatever its --seed
    return Dataset("spirals", spirals(6000, generator), spirals(1500, generator), classes=ARMS)


def spirals(n: int, generator: torch.Generator) -> Split:
    arm = torch.randint(0, ARMS, (n,), generator=generator)
    radius = torch.rand(n, generator=generator)
    angle = 2 * math.pi * (arm / ARMS + radius) + 0.2 * torch.randn(n, generator=generator)
    points: Tensor = 2 * radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)  # (n, 2)
    return Split(points, arm)
