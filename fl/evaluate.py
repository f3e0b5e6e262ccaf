"""Accuracy and loss on the whole test set, as it is: never augmented."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from data.dataset import Dataset
from fl.device import accumulator_dtype
from fl.group import Group

CHUNK = {"cpu": 500, "cuda": 10_000}  # examples in one forward pass, which limits the memory that it needs


@torch.inference_mode()
def evaluate(model: nn.Module, data: Dataset, group: Group) -> tuple[float, float]:
    """Accuracy in [0, 1] and cross-entropy in nats of the model, means over the test set's targets that count.

    The chunks are divided between the ranks, but always summed in the same order, so that the result has the same bits
    for any number of ranks.
    """
    was_training = model.training
    model.eval()
    device = data.test.targets.device
    chunk = CHUNK.get(device.type, 1000)
    starts = range(0, len(data.test), chunk)
    sums = torch.zeros(len(starts), 2, dtype=accumulator_dtype(device), device=device)  # correct, loss of a chunk
    for i in range(group.rank, len(starts), group.size):
        x, y = data.batch(data.test, slice(starts[i], starts[i] + chunk))
        logits = model(x)  # (chunk, classes) or (chunk, classes, T), as the targets are
        sums[i, 0] = (logits.argmax(1) == y).sum()
        sums[i, 1] = F.cross_entropy(logits, y, reduction="none").to(sums.dtype).sum()
    model.train(was_training)
    correct, loss = group.sum(sums).sum(0).tolist()
    return correct / data.test.counted, loss / data.test.counted
