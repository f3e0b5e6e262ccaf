"""What a model costs to run, counted rather than timed, so that the same flags always make the same choice."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def multiply_adds(model: nn.Module, x: Tensor) -> int:
    """Multiplications, each with its addition, of the forward pass of x (1, ...), the input of one example.

    Each output of a linear layer or of a convolution is the product of one row of its weights with as many inputs.
    A recurrent layer multiplies by all its weights at each position. Other layers are not counted, since they do little
    beside these. A training step takes about three times as many.
    """
    counted: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer.weight, Tensor)
        counted.append(output.numel() * layer.weight[0].numel())

    def count_recurrent(layer: nn.RNNBase, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        positions = output[0].data[..., 0].numel()  # .data of a packed sequence, too
        counted.append(positions * sum(p.numel() for p in layer.parameters() if p.dim() > 1))

    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
    hooks += [layer.register_forward_hook(count_recurrent) for layer in recurrent]
    was_training = model.training
    model.eval()  # because otherwise dropout would draw, and BatchNorm would count the example
    try:
        with torch.no_grad():
            model(x)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return sum(counted)
