"""A model and a data set of one's own, in one file that changes nothing in the package.

    python3 run_federated.py --model examples/spirals.py:Net --dataset examples/spirals.py:load \\
        --optimizer sgd --init_lr 0.3 --batch_size 10 --global_epoch 10

Three arms of a spiral, as points (x, y), stand in for your data: put in their place what reads your files.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from torch import nn

ARMS, PEOPLE = 3, 6


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


def load(data_dir: Path) -> dict[str, np.ndarray]:
    """--dataset takes a function of --data_dir, where your files may lie; this one reads none.

    It returns arrays or tensors: inputs (n, ...) and labels (n,) from 0 to classes - 1, for training and for the test.
    Without x_test and y_test, --test_fraction of each label is held out for the test. `clients` may be left out, too;
    it says to which client each training example belongs, for --partition natural.
    """
    draw = np.random.default_rng(0)  # the same data in every run, whatever its --seed
    x, y, clients = spirals(6000, draw)
    x_test, y_test, _ = spirals(1500, draw)
    return {"x": x, "y": y, "x_test": x_test, "y_test": y_test, "clients": clients}


def spirals(n: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (n, 2), the arm of each, and who has it: each person has a sector of the plane."""
    arm = draw.integers(0, ARMS, n)
    radius = draw.random(n)
    angle = 2 * math.pi * (arm / ARMS + radius) + 0.2 * draw.normal(size=n)
    points = 2 * radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return points, arm, (angle / (2 * math.pi) % 1 * PEOPLE).astype(int)
