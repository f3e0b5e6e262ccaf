r"""The CNN of McMahan et al. 2017 with larger maps: do E = 5, B = 50 and E = 20, B = 10 need fewer rounds with it?

    python3 run_federated.py @configs/mcmahan2017/table2-cnn-iid-E5B50.txt --model benchmarks/padded_cnn.py:padded
    python3 run_federated.py @configs/mcmahan2017/table2-cnn-iid-E20B10.txt --model benchmarks/padded_cnn.py:padded

The paper gives 1,663,370 parameters and no paddings. The CNN of the package has padding 1 on convolutions and pools.
This one has the paddings of TensorFlow's example for MNIST of 2015, which make as many parameters, larger maps and 29 %
more products. Parameters have the same shapes, and so with the same seed both networks begin with the same weights.
"""

from __future__ import annotations

from torch import nn

from fl.models.mcmahan2017 import cnn


def padded(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Maps of 28-28-14-14-7 in place of 28-26-14-12-7: padding 2 on the 5x5 convolutions, and none on the pools.

    (N, C, H, W) images, of which H and W are multiples of 4, to (N, classes) logits.
    """
    model = cnn(shape, classes)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.padding = (2, 2)
        elif isinstance(layer, nn.MaxPool2d):
            layer.padding = 0
    return model
