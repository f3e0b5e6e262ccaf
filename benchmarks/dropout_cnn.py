r"""The CNN of McMahan et al. 2017 with dropout: does it get to 99 % earlier with one client a round?

    python3 run_federated.py @configs/mcmahan2017/table1-cnn-iid-B10-C0.txt --model benchmarks/dropout_cnn.py:dropped

The paper does not speak of dropout. TensorFlow's example for MNIST of 2015, which has the same layers, drops half of
the 512 units while it trains. Parameters have the same shapes, and so with the same seed both networks begin with the
same weights.
"""

from __future__ import annotations

from torch import nn

from fl.models.mcmahan2017 import cnn


def dropped(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Dropout of 1/2 before the last layer. (N, C, H, W) images to (N, classes) logits."""
    *layers, last = cnn(shape, classes)  # type: ignore[misc]
    return nn.Sequential(*layers, nn.Dropout(0.5), last)
