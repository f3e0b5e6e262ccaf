"""LeNet for small images, with ReLU and max pooling as most papers of today have it.

After LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition", figure 2.
"""

from torch import nn


def lenet(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """(N, C, H, W) images to (N, classes) logits; H and W at least 12.

    5x5 convolutions of 6 and 16 channels without padding, each with 2x2 max pooling, then 120 and 84 units: 44,426
    parameters on MNIST, 62,006 on CIFAR-10.
    """
    channels, height, width = shape
    height, width = ((height - 4) // 2 - 4) // 2, ((width - 4) // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * height * width, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )
