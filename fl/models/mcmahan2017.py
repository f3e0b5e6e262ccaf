"""The two MNIST networks of McMahan et al. 2017 (arXiv 1602.05629), section 3."""

from math import prod

from torch import nn


def two_nn(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The 2NN: two hidden layers of 200 units, ReLU; 199,210 parameters on MNIST."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(shape), 200),
        nn.ReLU(),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, classes),
    )


def cnn(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The CNN: 5x5 convolutions of 32 and 64 channels, each with 2x2 max pooling, then 512 units.

    The paper gives 1,663,370 parameters and no paddings. Padding 1 on convolutions and pools (28-26-14-12-7)
    is the reading that has exactly so many.
    """
    channels, height, width = shape

    def after(side: int) -> int:
        return ((side - 2) + 2 - 2) // 2 + 1

    height, width = after(after(height)), after(after(width))
    return nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2, padding=1),
        nn.Conv2d(32, 64, 5, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2, padding=1),
        nn.Flatten(),
        nn.Linear(64 * height * width, 512),
        nn.ReLU(),
        nn.Linear(512, classes),
    )
