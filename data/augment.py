"""Crops, flips and contrast, drawn anew at every visit of an image: --augment. And what --normalise makes of bytes.

An image's changes follow from its draw alone, which is 64 random bits of that one visit (fl/rng.py, visit_draws):

    bits 0 to 19   how far down the crop begins
    bits 20 to 39  how far to the right
    bit 40         whether it is flipped
    bits 41 to 63  how much contrast

So every engine, a resumed run and the centralised baseline see the same images. All of it happens on the device, in one
gather and a few passes over a minibatch.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from data.dataset import Augment, Dataset, View
from fl.errors import FlagError

PAD = 4  # pixels that an image is padded by before it is cropped
CROP = 24  # pixels of a side, in the 2017 paper
LEAST, MOST = 0.2, 1.8  # factors on contrast, in the 2017 paper
PIXELS = {"unit": (0.0, 1.0), "centred": (0.5, 1.0)}  # (mean, std): a byte b becomes (b / 255 - mean) / std


def normalised(data: Dataset, how: str) -> Dataset:
    """The data set with --normalise: `unit` makes numbers in [0, 1] of its bytes, `centred` in [-0.5, 0.5].

    Raises FlagError for examples that are no bytes.
    """
    if how == "standard":
        return data
    if data.train.examples.dtype != torch.uint8:
        kind = str(data.train.examples.dtype).removeprefix("torch.")
        raise FlagError(f"--normalise {how}: needs examples of bytes, and {data.name} has {kind}; leave the flag out")
    mean, std = PIXELS[how]
    return replace(data, mean=mean, std=std)


def none(data: Dataset) -> Dataset:
    """As the data set itself has it."""
    return data


def crop_flip(data: Dataset) -> Dataset:
    """Padded by 4 pixels, cropped to the size it had and flipped half of the time: what most papers do to CIFAR-10.

    The padding reflects the image, as in NIID-Bench (Li et al. 2022, arXiv 2102.02079). Raises FlagError for what is no
    image of 5x5 pixels or more.
    """
    return _augmented(data, "crop_flip", PAD + 1, cropped_and_flipped)


def mcmahan2017(data: Dataset) -> Dataset:
    """What McMahan et al. 2017 (arXiv 1602.05629), section 3, do to CIFAR-10, after TensorFlow's tutorial of 2016.

    A crop of 24x24 pixels, flipped half of the time, its contrast changed by a factor from 0.2 to 1.8, then whitened.
    Images that are not trained on are cropped in the middle and whitened. The tutorial also changes the brightness, and
    says itself that whitening takes that away again: so it is left out here. Raises FlagError for what is no image in
    bytes of 24x24 pixels or more.
    """
    if data.train.examples.dtype != torch.uint8:
        raise FlagError(f"--augment mcmahan2017: needs images in bytes, and {data.name} has others; choose another")
    return _augmented(data, "mcmahan2017", CROP, distorted, middle_whitened)


def _augmented(data: Dataset, name: str, least: int, augment: Augment, unaugmented: View | None = None) -> Dataset:
    shape = tuple(data.train.examples.shape[1:])
    if len(shape) != 3 or min(shape[1:]) < least:
        wanted = f"images (C, H, W) of {least}x{least} pixels or more"
        raise FlagError(f"--augment {name}: needs {wanted}, and examples of {data.name} are {shape}; choose another")
    if data.augment or data.unaugmented:
        raise FlagError(f"--augment {name}: {data.name} augments by itself; leave the flag out")
    return replace(data, augment=augment, unaugmented=unaugmented)


def cropped_and_flipped(x: Tensor, draws: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, H, W)."""
    return crops(x, draws, x.shape[-2], x.shape[-1], PAD)


def distorted(x: Tensor, draws: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, 24, 24)."""
    share = (draws >> 41 & 2**23 - 1).to(x.dtype) / 2**23
    return whitened(crops(x, draws, CROP, CROP, 0), (LEAST + (MOST - LEAST) * share).view(-1, 1, 1, 1))


def middle_whitened(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, 24, 24)."""
    top, left = (x.shape[-2] - CROP) // 2, (x.shape[-1] - CROP) // 2
    return whitened(x[..., top : top + CROP, left : left + CROP], x.new_ones(1))


def crops(x: Tensor, draws: Tensor, height: int, width: int, pad: int) -> Tensor:
    """Of each image (C, H, W), padded by its reflection, a part (C, height, width), flipped or not.

    The padded image is never made: a pixel of the part is looked up where the reflection has it from.
    """
    N, C, H, W = x.shape
    top = below(draws, H + 2 * pad - height + 1) - pad
    left = below(draws >> 20, W + 2 * pad - width + 1) - pad
    flip = (draws >> 40 & 1).bool()
    columns = torch.arange(width, device=x.device)
    rows = reflected(top[:, None] + torch.arange(height, device=x.device), H)  # (N, height)
    columns = reflected(left[:, None] + torch.where(flip[:, None], columns.flip(0), columns), W)  # (N, width)
    places = (rows[:, :, None] * W + columns[:, None, :]).view(N, 1, -1)  # in a channel of H W pixels
    return x.reshape(N, C, H * W).gather(2, places.expand(N, C, -1)).view(N, C, height, width)


def below(draws: Tensor, n: int) -> Tensor:
    """Numbers from 0 to n - 1, from the lowest 20 bits of (N,) draws; each as likely as another up to n / 2^20."""
    return (draws & 2**20 - 1) * n >> 20


def reflected(places: Tensor, n: int) -> Tensor:
    """Indices at most n - 1 outside of range(n), mapped into it by reflection at the edge pixel (reflect padding)."""
    return n - 1 - (n - 1 - places.abs()).abs()


def whitened(x: Tensor, contrast: Tensor) -> Tensor:
    """Images (N, C, H, W), contrast changed by the factors (N, 1, 1, 1) about each channel's mean, then standardised.

    Each image gets mean 0 and standard deviation 1 over all its values. As in TensorFlow, the standard deviation is at
    least 1 / sqrt(number of values) for pixels up to 255; for pixels up to 1, as here, that is divided by 255.
    """
    mean = x.mean((2, 3), keepdim=True)  # of each channel
    x = x - mean
    variance = contrast.square() * x.square().mean((1, 2, 3), keepdim=True) + mean.var(1, correction=0, keepdim=True)
    scale = 1 / variance.sqrt().clamp(min=x[0].numel() ** -0.5 / 255)
    return x.mul_(contrast * scale).add_((mean - mean.mean(1, keepdim=True)) * scale)
