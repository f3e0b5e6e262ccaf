"""Accuracy and loss on the whole test set."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from data.dataset import Dataset
from fl.device import accumulator_dtype

CHUNK = {"cpu": 500, "cuda": 10_000}  # examples at once; bounds the memory, does not touch the result's meaning


@torch.inference_mode()
def evaluate(model: nn.Module, data: Dataset) -> tuple[float, float]:
    """Accuracy in [0, 1] and cross-entropy in nats of the model, means over test examples (not over batches)."""
    was_training = model.training
    model.eval()
    device = data.test.labels.device
    wide = accumulator_dtype(device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=wide, device=device)
    chunk = CHUNK.get(device.type, 1000)
    for start in range(0, len(data.test), chunk):
        x, y = data.batch(data.test, slice(start, start + chunk))
        logits = model(x)  # (chunk, classes)
        correct += (logits.argmax(1) == y).sum()
        loss += F.cross_entropy(logits, y, reduction="none").to(wide).sum()
    model.train(was_training)
    return correct.item() / len(data.test), loss.item() / len(data.test)
