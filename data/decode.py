"""Image files to bytes of one size, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fl.cores import cores

BACKGROUND = "white"  # of what is transparent


def decode(paths: Sequence[Path], size: int, grey: bool) -> tuple[Tensor, Tensor]:
    """The images as bytes (n, C, size, size), and which of them can be read, (n,)."""
    from tqdm import tqdm

    pixels = torch.zeros(len(paths), 1 if grey else 3, size, size, dtype=torch.uint8)

    def one(i: int) -> bool:
        try:
            pixels[i] = square(paths[i], size, grey)
        except Exception:  # whatever a decoder makes of a file that is none of its own
            return False
        return True

    with ThreadPoolExecutor(cores()) as pool:  # Pillow decodes without Python's lock
        shown = tqdm(
            pool.map(one, range(len(paths)), chunksize=64), total=len(paths), desc="decoding", unit="image",
            leave=False, disable=None,
        )  # fmt: skip
        readable = list(shown)
    return pixels, torch.tensor(readable)


def square(path: Path, size: int, grey: bool) -> Tensor:
    """The middle of an image, upright, as bytes (C, size, size)."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    mode = "L" if grey else "RGB"
    with Pillow.open(path) as file:
        file.draft(mode, (size, size))  # lets JPEG decode a smaller image, if that is large enough
        image = plain(ImageOps.exif_transpose(file)).convert(mode)
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Pillow.Resampling.BILINEAR)
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(size, size, len(mode)).permute(2, 0, 1)


def plain(image: Any) -> Any:
    """An image of Pillow's with 8 bits a channel and nothing transparent. Raises ValueError for numbers of no range."""
    from PIL import Image as Pillow

    if image.mode.startswith("I"):  # Pillow would cut such numbers off at 255
        numbers = np.asarray(image).astype(np.int64)
        if numbers.min() < 0 or numbers.max() > 0xFFFF:
            raise ValueError("more than 16 bits a pixel")
        return Pillow.fromarray((numbers >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Pillow.alpha_composite(Pillow.new("RGBA", image.size, BACKGROUND), image)
    return image
