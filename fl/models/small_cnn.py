"""A small CNN for quick runs: 28,938 parameters on MNIST."""

from torch import nn


def small_cnn(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """(N, C, H, W) to (N, classes): 5x5 convolutions of 16 and 32 channels with 2x2 max pooling, then linear."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), classes),
    )
