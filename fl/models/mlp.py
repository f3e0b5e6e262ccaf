"""A multilayer perceptron for any shape of example: the usual network for tables."""

from itertools import pairwise
from math import prod

from torch import nn


def mlp(shape: tuple[int, ...], classes: int, hidden: str = "64,64") -> nn.Module:
    """(N, *shape) examples to (N, classes) logits, by hidden layers with ReLU. hidden: their units, such as "64,64"."""
    widths = [prod(shape), *map(int, hidden.split(","))]
    layers = [layer for inner, outer in pairwise(widths) for layer in (nn.Linear(inner, outer), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], classes))
