"""The networks of McMahan et al. 2017 (arXiv 1602.05629), section 3: two for MNIST, one for CIFAR-10."""

from math import prod

from torch import nn


def two_nn(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The 2NN: (N, C, H, W) to (N, classes) logits by two hidden layers of 200 units; 199,210 parameters on MNIST."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(shape), 200),
        nn.ReLU(),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, classes),
    )


def cnn(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The CNN, (N, C, H, W) to (N, classes): 5x5 convolutions of 32 and 64 channels, 2x2 max pooling, 512 units.

    The paper gives 1,663,370 parameters and no paddings. Padding 1 on convolutions and pools (28-26-14-12-7) makes
    exactly so many. So does padding 2 on convolutions and none on pools (28-28-14-14-7), which TensorFlow's example for
    MNIST of 2015 had with the same layers; with it the maps are larger, and there are 29 % more products.
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


def cifar_cnn(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """(N, C, H, W) to (N, classes): two 5x5 convolutions of 64 channels with 3x3 max pooling, then 384 and 192 units.

    The paper takes the network of TensorFlow's tutorial of 2016 and gives "about 10^6 parameters": 1,068,298 here for
    its crops of 24x24, and 1,756,426 for whole images of 32x32. The tutorial's local response normalisation is left
    out, because later work found it to be of no use.
    """
    channels, height, width = shape
    height, width = (((side + 1) // 2 + 1) // 2 for side in (height, width))
    return nn.Sequential(
        nn.Conv2d(channels, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        nn.Conv2d(64, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        nn.Flatten(),
        nn.Linear(64 * height * width, 384),
        nn.ReLU(),
        nn.Linear(384, 192),
        nn.ReLU(),
        nn.Linear(192, classes),
    )
