"""The character model of McMahan et al. 2017 (arXiv 1602.05629), section 3, for --dataset shakespeare."""

from __future__ import annotations

from torch import Tensor, nn


def char_lstm(shape: tuple[int, ...], classes: int) -> nn.Module:
    return CharLSTM(classes)


class CharLSTM(nn.Module):
    def __init__(self, classes: int, embedding: int = 8, hidden: int = 256):
        super().__init__()
        self.embedding = nn.Embedding(classes, embedding)
        self.lstm = nn.LSTM(embedding, hidden, num_layers=2)
        self.linear = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T) characters to (B, classes, T) logits."""
        h, _ = self.lstm(self.embedding(x.t()))  # (T, B, hidden)
        logits: Tensor = self.linear(h)
        return logits.permute(1, 2, 0)
