"""torchvision's ResNet-18 (He et al. 2016, arXiv 1512.03385) with GroupNorm, for small images; 11,173,962 parameters.

Each GroupNorm (Wu and He 2018, arXiv 1803.08494) has two groups, as in Reddi et al. 2021 (arXiv 2003.00295), who follow
Hsieh et al. 2020 (arXiv 1910.00189): clients with different labels spoil the running statistics of BatchNorm. The first
convolution is 3x3 without stride and no pooling follows it, because the original's would leave 8x8 of 32x32.
"""

from torch import nn

from fl.errors import FlagError, reason

GROUPS = 2


def resnet18_gn(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """(N, C, H, W) images to (N, classes) logits. Raises FlagError if torchvision cannot be imported."""
    try:
        from torchvision.models import resnet18
    except Exception as error:  # beside a CPU-only torch PyPI's torchvision fails to import, with a RuntimeError
        raise FlagError(f"--model resnet18_gn: needs torchvision, whose import failed ({reason(error)})") from None
    model: nn.Module = resnet18(num_classes=classes, norm_layer=lambda channels: nn.GroupNorm(GROUPS, channels))
    model.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
    model.maxpool = nn.Identity()
    # The mean of a whole map, as torchvision's adaptive pooling, which torch.func knows no fast way to do for a stack.
    model.avgpool = nn.AvgPool2d((-(-shape[1] // 8), -(-shape[2] // 8)))
    return model
