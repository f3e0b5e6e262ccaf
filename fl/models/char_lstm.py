"""The character model of McMahan et al. 2017 (arXiv 1602.05629), section 3, for --dataset shakespeare."""

from __future__ import annotations

from torch import Tensor, nn


def char_lstm(shape: tuple[int, ...], classes: int) -> nn.Module:
    """(B, T) tokens to (B, classes, T) logits of the token after each; any T.

    An embedding of 8, two LSTM layers of 256 and a linear layer. The state is zero at the start of each sequence. The
    paper gives 866,578 parameters; here there are 815,945 with the 65 classes of the known text. PyTorch's LSTM has two
    bias vectors per layer, where most have one. The paper does not give its number of characters or other details.
    """
    return CharLSTM(classes)


class CharLSTM(nn.Module):
    def __init__(self, classes: int, embedding: int = 8, hidden: int = 256):
        super().__init__()
        self.embedding = nn.Embedding(classes, embedding)
        self.lstm = nn.LSTM(embedding, hidden, num_layers=2)
        self.linear = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        # Time comes first, because the LSTM would copy its inputs and outputs otherwise.
        h, _ = self.lstm(self.embedding(x.t()))  # (T, B, hidden)
        logits: Tensor = self.linear(h)
        return logits.permute(1, 2, 0)
