"""The networks: what their docstrings claim, and what a forward pass of them costs."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fl.config import Config
from fl.engines.cost import multiply_adds
from fl.engines.stacked.hand_made import HandMade
from fl.engines.stacked.stack import copies_of
from fl.models.fast_cnn import DEVIATION, GAIN, fast_cnn
from fl.names import named


def build(name):
    torch.manual_seed(0)
    return named("model", name)((1, 28, 28), 10)


def test_fast_cnn_is_the_default_and_begins_as_its_docstring_says():
    assert Config().model == "fast_cnn"
    model = build("fast_cnn")
    convolutions = [module for module in model if isinstance(module, nn.Conv2d)]
    norms = [module for module in model if isinstance(module, nn.GroupNorm)]
    assert len(convolutions) == len(norms) == 3
    for convolution in convolutions:
        assert convolution.bias is None
        spread = 4 / math.sqrt(2 * convolution.weight.numel())  # four standard errors of a deviation
        assert convolution.weight.std().item() == pytest.approx(DEVIATION, rel=spread)
    for norm in norms:
        assert norm.num_groups == 4
        assert (norm.weight == GAIN).all()
    x, y = torch.randn(20, 1, 28, 28), torch.arange(20) % 10
    assert F.cross_entropy(model(x), y).item() == pytest.approx(math.log(10), rel=1e-6)


def test_fast_cnn_pools_before_it_normalises():
    sides, x = [], torch.randn(1, 1, 28, 28)
    for layer in build("fast_cnn"):
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.GroupNorm):
            sides.append((type(layer).__name__, x.shape[-1]))
    later = [("Conv2d", 7), ("GroupNorm", 7)]
    assert sides == [("Conv2d", 14), ("MaxPool2d", 7), ("GroupNorm", 7), *later, *later]


def test_the_scale_of_fast_cnns_convolutions_does_not_change_its_output():
    """Why small first weights are no smaller a function, only one that turns faster."""
    model = build("fast_cnn").double()
    nn.init.normal_(model[-1].weight)
    x = torch.randn(5, 1, 28, 28, dtype=torch.float64)
    before = model(x)
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(1000)
            if isinstance(module, nn.GroupNorm):
                module.eps *= 1e6  # it is added to the variance, which grows with the square
    torch.testing.assert_close(model(x), before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 3, 3), (1, 8, 8), (3, 32, 40), (2, 27, 30)])
def test_fast_cnn_takes_images_of_any_size(shape):
    assert fast_cnn(shape, 7)(torch.zeros(2, *shape)).shape == (2, 7)


def layers_of(*modules):
    model = nn.Sequential(*modules)
    parameters = {name: copies_of(p, 1) for name, p in model.named_parameters()}
    return [type(layer).__name__ for layer in HandMade(model, (1, 8, 8), parameters, folded=False).layers]


def test_the_stacked_engine_moves_pooling_only_before_the_relu():
    """Rectifying after pooling is the same; normalising after pooling is not."""
    last = nn.Flatten(), nn.Linear(4, 2)
    norm = nn.GroupNorm(2, 4)
    after = layers_of(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.MaxPool2d(2), *last)
    assert after == ["Conv2d", "GroupNorm", "MaxPool2d", "ReLU", "Flatten", "Linear"]
    before = layers_of(nn.Conv2d(1, 4, 3, stride=2, bias=False), nn.MaxPool2d(2), norm, nn.ReLU(), *last)
    assert before == ["Conv2d", "MaxPool2d", "GroupNorm", "ReLU", "Flatten", "Linear"]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("logistic", 7_840),
        ("2nn", 784 * 200 + 200 * 200 + 200 * 10),
        ("cnn", 26 * 26 * 32 * 25 + 12 * 12 * 64 * 32 * 25 + 3136 * 512 + 5120),
        ("fast_cnn", 14 * 14 * 16 * 25 + 7 * 7 * 32 * (16 + 32) * 9 + 7 * 7 * 32 * 10),
    ],
)
def test_multiply_adds(name, count):
    assert multiply_adds(build(name), torch.zeros(1, 1, 28, 28)) == count


def test_multiply_adds_leave_the_model_and_the_random_numbers_as_they_were():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, groups=1), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 4, 3, groups=2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    draws = torch.get_rng_state()
    assert multiply_adds(model, torch.randn(1, 1, 8, 8)) == 36 * 4 * 9 + 16 * 4 * 18
    model(torch.ones(2, 1, 8, 8))  # would be counted twice if a hook were left
    assert all(not module._forward_hooks for module in model)
    assert model.training
    model.load_state_dict(before)
    torch.set_rng_state(draws)
    multiply_adds(model, torch.ones(1, 1, 8, 8))
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
