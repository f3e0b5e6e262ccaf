"""Three 3x3 convolutions with GroupNorm, 390,858 parameters on MNIST.

GroupNorm (Wu and He 2018, arXiv 1803.08494) normalises within one example, so the average of two clients'
networks has no running statistics to disagree about, as it would with BatchNorm.
"""

from torch import nn


def gn_cnn(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """(N, C, H, W) images to (N, classes) logits; H and W at least 8."""
    channels, height, width = shape
    layers: list[nn.Module] = []
    for wider in (32, 64, 128):
        layers += [
            nn.Conv2d(channels, wider, 3, padding=1),
            nn.GroupNorm(8, wider),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels, height, width = wider, height // 2, width // 2
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Linear(channels * height * width, 256),
        nn.ReLU(),
        nn.Linear(256, classes),
    )
