"""A data set as the runner sees it: raw examples on the device, made into inputs of a model batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fl.errors import DataError

IGNORED = -100  # a target that counts in no loss and no accuracy; F.cross_entropy's ignore_index

Augment = Callable[[Tensor, Tensor], Tensor]
View = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Split:
    """examples (n, ...): bytes (uint8), floats, or other integers such as tokens. targets (n,) or (n, T) int64.

    Of the T targets of an example all but the first may be IGNORED, such as those that fill up a short sequence.
    """

    examples: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def counted(self) -> int:
        """How many targets count."""
        return int((self.targets != IGNORED).sum())


@dataclass(frozen=True)
class Dataset:
    """Train and test examples, and what turns them into inputs of a model.

    mean, std: of the training examples, where those of bytes are scaled to [0, 1]; one number, or one for each channel,
    which is the first dimension of an example. source: where the files came from, for the records. dtype: of inputs
    that are not integers.

    clients: (n,) int64 on the CPU, the client that owns each training example, such as a writer or a hospital, from 0
    to K - 1; None if that is not known. --partition natural goes by it.

    augment: inputs (N, ...) and draws (N,) int64 to inputs (N, *shape). A draw is 64 random bits that belong to one
    visit of one example in training. An example's result must depend on its own draw alone, because which examples come
    together is up to the engine. Half of all visits negated is
    `lambda x, draws: torch.where((draws & 1).bool()[:, None, None, None], x, -x)`.

    unaugmented: inputs (N, ...) to inputs (N, *shape), where nothing is drawn: in evaluation, and for the gradient of
    all of a client's examples. Augmentations that change the shape need it: where training crops an image at random,
    this takes its middle. None leaves inputs as they are.
    """

    name: str
    train: Split
    test: Split
    classes: int
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    source: str = ""
    dtype: torch.dtype = torch.float32
    augment: Augment | None = None
    unaugmented: View | None = None
    clients: Tensor | None = None

    @property
    def labels(self) -> Tensor:
        """(n,) on the CPU: the labels by which examples are split over clients; the first of several targets."""
        return self.train.targets.view(len(self.train), -1)[:, 0].cpu()

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input of a model, such as (C, H, W): that of an example unless `unaugmented` changes it."""
        if self.unaugmented is None:
            return tuple(self.train.examples.shape[1:])
        return tuple(self.unaugmented(self.normalise(self.train.examples[:1])).shape[1:])

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Dataset:
        """The same data set with both splits resident on `device`."""
        train, test = (Split(s.examples.to(device), s.targets.to(device)) for s in (self.train, self.test))
        return replace(self, train=train, test=test, dtype=dtype)

    def only(self, rows: Tensor) -> Dataset:
        """The same with these training examples, (n,) int64 on the CPU. Mean and std stay as they are.

        Clients of whose examples none is left are no clients any more, and the others are numbered anew.
        """
        here = rows.to(self.train.targets.device)
        train = Split(self.train.examples[here], self.train.targets[here])
        clients = None if self.clients is None else self.clients[rows].unique(return_inverse=True)[1]
        return replace(self, train=train, clients=clients)

    def sha256(self) -> str:
        """Over the examples and targets of both splits, so that a resumed run trains on what it began with."""
        digest = hashlib.sha256()
        for tensor in (self.train.examples, self.train.targets, self.test.examples, self.test.targets):
            digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def inputs(self, rows: Tensor, draws: Tensor | None = None) -> Tensor:
        """The training examples `rows` (...) int64 as inputs (..., *shape), augmented if there are draws (...) int64.

        Raises DataError if `augment` changes their shape.
        """
        # Rows of a matrix are gathered faster than examples of more dimensions.
        examples = self._flat.index_select(0, rows.flatten()).view(*rows.shape, *self.train.examples.shape[1:])
        x = self.normalise(examples)
        if draws is None or self.augment is None:
            return self._plain(x)
        with torch.autocast(x.device.type, enabled=False):  # for the same bits whichever engine asks
            augmented = self.augment(x.flatten(0, rows.dim() - 1), draws.flatten())
        if augmented.shape[1:] != self.shape:
            raise DataError(f"{self.name}: augment made {tuple(augmented.shape[1:])} of examples of shape {self.shape}")
        return augmented.reshape(*rows.shape, *self.shape)

    def batch(self, split: Split, indices: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The examples at `indices` (B,), never augmented: inputs (B, *shape) and targets (B,) or (B, T)."""
        return self._plain(self.normalise(split.examples[indices])), split.targets[indices]

    def _plain(self, x: Tensor) -> Tensor:
        """Inputs (..., *shape of an example) where nothing is drawn: (..., *shape)."""
        if self.unaugmented is None:
            return x
        dimensions = len(self.train.examples.shape) - 1
        with torch.autocast(x.device.type, enabled=False):
            return self.unaugmented(x.flatten(0, -dimensions - 1)).view(*x.shape[:-dimensions], *self.shape)

    def normalise(self, examples: Tensor) -> Tensor:
        """(..., C, ...) to (x - mean) / std, x being a byte / 255 or a float. Other integers pass unchanged."""
        if not (examples.dtype == torch.uint8 or examples.is_floating_point()):
            return examples
        scale, shift = self._scale_and_shift
        x = examples.to(self.dtype)
        # What has the right dtype already may be a view of the data set, which must stay as it is.
        return (x.mul(scale) if x is examples else x.mul_(scale)).sub_(shift)

    @cached_property
    def _flat(self) -> Tensor:
        """The training examples as a matrix, (n, F)."""
        return self.train.examples.reshape(len(self.train), -1)

    @cached_property
    def _scale_and_shift(self) -> tuple[Any, Any]:
        """1 / std and mean / std, the first for bytes by 255: numbers, or (C, 1, ...) if mean or std is per channel."""
        largest = 255 if self.train.examples.dtype == torch.uint8 else 1
        if isinstance(self.mean, int | float) and isinstance(self.std, int | float):
            return 1 / (largest * self.std), self.mean / self.std
        mean, std = (torch.tensor(value, dtype=torch.float64) for value in (self.mean, self.std))
        beside = [1] * (self.train.examples.dim() - 2)
        scale, shift = ((1 / (largest * std)).view(-1, *beside), (mean / std).view(-1, *beside))
        return scale.to(self.train.examples.device, self.dtype), shift.to(self.train.examples.device, self.dtype)


def channel_statistics(pixels: Tensor) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel of the bytes (n, C, S, S), scaled to [0, 1].

    A standard deviation of 0 becomes 1, so that one can divide by it.
    """
    mean, std = [], []
    for channel in pixels.unbind(1):
        counts = torch.bincount(channel.reshape(-1), minlength=256).double()
        values = torch.arange(256, dtype=torch.float64) / 255
        average = (counts * values).sum() / counts.sum()
        mean.append(float(average))
        std.append(float(((counts * (values - average) ** 2).sum() / counts.sum()).sqrt()) or 1.0)
    return {"mean": mean, "std": std}
