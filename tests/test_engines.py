"""Every engine gives the sequential engine's result: float64, ragged clients, every model and optimizer."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from torch import nn

from fl.client import load_state
from fl.engines.sequential import Sequential
from fl.engines.stacked import Stacked, has_hand_made_layers, obstacle_to_stacking
from fl.engines.stacked.engine import default_stack_size, side_by_side
from fl.engines.stacked.hand_made import HandMade
from fl.engines.stacked.pixel_pairs import PixelPairs, fits_pixel_pairs
from fl.experiment import federated
from fl.models import MODELS
from tests.rounds import run_rounds
from tests.test_golden import OF_IMAGES, begin, close, config, ragged, task_of
from tests.tiny import next_tokens, tiny

OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "init_lr": 0.05},
    "decay": {"optimizer": "sgd", "init_lr": 0.05, "weight_decay": 0.1},
    "momentum": {"optimizer": "sgd", "init_lr": 0.02, "momentum": 0.9, "weight_decay": 0.1},
    "adam": {"optimizer": "adam", "init_lr": 0.003, "weight_decay": 0.01},
}

# A model of these layers must not fall back to the general path, which is slower. Others may need it.
HAND_MADE = ("fast_cnn", "gn_cnn", "cnn", "2nn", "cifar_cnn", "lenet", "small_cnn", "logistic", "mlp")


def hand_made(c):
    task = task_of(c)
    return has_hand_made_layers(task.model, task.data.shape)


def both(c, stack_size=0, partition=None, engine=Stacked):
    """The same rounds by the sequential engine and another one."""
    task = task_of(c)
    w0 = task.w
    partition = partition or ragged()
    results = []
    for one in (
        Sequential(task.model, task.data, partition, c),
        engine(task.model, task.data, partition, c, stack_size=stack_size),
    ):
        load_state(task.model, w0)
        results.append(list(run_rounds(task, partition, one, c)))
    for one, other in zip(*results, strict=True):
        close(one.w, other.w, 1e-9)
        for key in ("train_loss", "test_loss"):
            a, b = one.record[key], other.record[key]
            assert a == b or a == pytest.approx(b, rel=1e-9)
        for key in ("clients", "examples", "local_steps"):
            assert one.record[key] == other.record[key]


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("model", OF_IMAGES)
def test_stacked_equals_sequential(model, optimizer):
    assert hand_made(config(model=model)) or model not in HAND_MADE
    both(config(model=model, global_epoch=3, **OPTIMIZERS[optimizer]), stack_size=3)


@pytest.mark.parametrize("batch_size", [0, 1, 2, 5, 7, 100])
@pytest.mark.parametrize("stack_size", [1, 2, 3])
def test_for_any_batch_and_stack_size(batch_size, stack_size):
    both(config(batch_size=batch_size, lr_decay=0.5, **OPTIMIZERS["momentum"]), stack_size)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_models_without_hand_made_layers_take_the_general_path(optimizer, monkeypatch):
    monkeypatch.setitem(MODELS, "tanh", "tests.test_engines:tanh_net")
    c = config(model="tanh", **OPTIMIZERS[optimizer])
    assert not hand_made(c)
    both(c, stack_size=3)


def narrow_net(shape, classes):
    """A first layer without bias, padded, of an odd number of channels, with a pool that overlaps."""
    first, pool = nn.Conv2d(shape[0], 3, (2, 3), padding=(2, 1), bias=False), nn.MaxPool2d(3, 2, padding=1)
    height, width = shape[1] // 2 + 2, shape[2] // 2
    return nn.Sequential(first, nn.ReLU(), pool, nn.Flatten(), nn.Linear(3 * height * width, classes))


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("model", ["lenet", "narrow"])
def test_a_narrow_first_layer_of_one_client(model, optimizer, monkeypatch):
    monkeypatch.setitem(MODELS, "narrow", "tests.test_engines:narrow_net")
    c = config(model=model, global_epoch=2, **OPTIMIZERS[optimizer])
    task = task_of(c)
    made = HandMade(task.model, task.data.shape, {k: p.unsqueeze(0) for k, p in task.model.named_parameters()}, True)
    assert isinstance(made.layers[0], PixelPairs)
    both(c, stack_size=1)


def test_layers_that_are_wide_or_leave_an_odd_pixel_are_not_narrow():
    def narrow(shape, *layers):
        return fits_pixel_pairs(layers, shape)

    pool = nn.MaxPool2d(2)
    assert narrow((1, 12, 12), nn.Conv2d(1, 8, 5), pool)
    assert not narrow((1, 12, 12), nn.Conv2d(1, 9, 5), pool)
    assert not narrow((1, 12, 13), nn.Conv2d(1, 8, 5), pool)
    assert not narrow((1, 12, 12), nn.Conv2d(1, 8, 5, stride=2), pool)
    assert not narrow((1, 12, 12), nn.Conv2d(1, 8, 3, dilation=2), pool)
    assert not narrow((2, 12, 12), nn.Conv2d(2, 8, 5, groups=2), pool)
    assert not narrow((1, 12, 12), nn.Conv2d(1, 8, 5), nn.ReLU())


def tanh_net(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), 9), nn.Tanh(), nn.Linear(9, classes))


def test_layers_with_other_options(monkeypatch):
    monkeypatch.setitem(MODELS, "odd", "tests.test_engines:odd_net")
    c = config(model="odd", **OPTIMIZERS["sgd"])
    assert hand_made(c)
    both(c, stack_size=2)


def odd_net(shape, classes):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2),
        nn.MaxPool2d(3, stride=1, ceil_mode=True), nn.ReLU(), nn.Flatten(), nn.Linear(16, classes, bias=False),
    )  # fmt: skip


@pytest.mark.parametrize("model", OF_IMAGES)
def test_bf16_is_as_near_to_exact_as_autocast(model):
    """How far the weights of a round are from those in float64, by either engine with bf16, over three seeds."""

    def way(engine, precision, seed):
        c = config(model=model, precision=precision, global_epoch=1, seed=seed)
        task = task_of(c)
        if precision == "bf16":  # autocast leaves float64 alone
            task = replace(task, model=task.model.float(), data=replace(task.data, dtype=torch.float32))
        w0 = task.w
        w = list(run_rounds(task, ragged(), engine(task.model, task.data, ragged(), c), c))[-1].w
        return torch.cat([(w[name] - w0[name]).flatten() for name in w0])

    def error(engine):
        return sum((way(engine, "bf16", seed) - way(Sequential, "fp32", seed)).norm() for seed in range(3))

    assert 0 < error(Stacked) < 1.5 * error(Sequential)


class Draws(nn.Linear):
    """Dropout without a module, as many examples have it."""

    def forward(self, x):
        return super().forward(torch.nn.functional.dropout(x.flatten(1), training=self.training))


class Remembers(nn.Linear):
    last = None

    def forward(self, x):
        y = super().forward(x.flatten(1))
        self.last = y.detach().mean()
        return y


def test_a_system_that_does_not_say_how_much_memory_is_free(monkeypatch):
    monkeypatch.delattr("os.sysconf")
    task = task_of(config(model="2nn"))
    assert default_stack_size(task.model, task.data, config(model="2nn")) > 1


def test_what_cannot_be_stacked_says_why():
    data, shared = tiny(Path()), nn.Linear(3, 3)
    assert "shares" in (obstacle_to_stacking(nn.Sequential(shared, nn.ReLU(), shared), data) or "")
    assert "frozen" in (obstacle_to_stacking(nn.Linear(3, 3).requires_grad_(False), data) or "")
    assert "BatchNorm2d" in (obstacle_to_stacking(nn.BatchNorm2d(3, track_running_stats=False), data) or "")
    assert "buffers" in (obstacle_to_stacking(nn.BatchNorm2d(3), data) or "")
    assert "Dropout" in (obstacle_to_stacking(nn.Dropout(), data) or "")
    assert "several targets" in (obstacle_to_stacking(nn.Linear(3, 3), next_tokens(Path())) or "")
    remembers = Remembers(64, 3)
    assert obstacle_to_stacking(remembers, data) is None
    assert remembers.last is None
    for layer in (Draws(64, 3), nn.Sequential(nn.Flatten(), nn.RReLU(), nn.Linear(64, 3))):
        assert "torch.func cannot" in (obstacle_to_stacking(layer, data) or "")
        assert layer.training
    for name in OF_IMAGES:
        task = task_of(config(model=name))
        assert obstacle_to_stacking(task.model, task.data) is None


@pytest.mark.parametrize("sizes", [(5, 5, 5), (1, 1, 1), (12,), (1, 4, 7)])
def test_for_other_sizes(sizes):
    n = sum(sizes)
    c = config(num_clients=len(sizes), num_select_clients=len(sizes))
    task = task_of(c)
    if n <= len(task.data.train):
        both(c, partition=ragged(sizes))


@pytest.fixture
def threads(request):
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)
@pytest.mark.parametrize("B", [1, 5, 16, 30])
def test_a_softmax_has_the_same_bits_in_any_company(B, threads):
    z = torch.randn(10, 7, 1, B)  # classes, S, l, B
    together, alone = (torch.stack([side_by_side(each) for each in part], 1) for part in (z, z[:, 2:3]))
    for softmax in (torch.softmax, torch.log_softmax):
        own = softmax(together, 1)[..., 2 * B : 3 * B]
        assert torch.equal(own, softmax(alone, 1)[..., :B])


@pytest.mark.parametrize("batch_size", [0, 5, 400])
@pytest.mark.parametrize("model", ["2nn", "logistic"])
def test_a_client_has_the_same_bits_in_any_company(model, batch_size):
    """Float32 on one thread of a CPU: alone, in pairs or all together, of sizes on both sides of B."""
    c = config(model=model, batch_size=batch_size, num_clients=4, num_select_clients=4)
    task, partition = federated(c), ragged((20, 13, 7, 20))
    w = {}
    for stack_size in (1, 2, 4):
        engine = Stacked(task.model, task.data, partition, c, stack_size=stack_size)
        for update in engine.train(range(4), begin(c, task.w)):
            for i, report in enumerate(update.reports):
                own = torch.cat([tensor[i].flatten() for tensor in update.w.values()])
                assert torch.equal(w.setdefault(report.client, own), own)
    assert len(w) == 4


def test_layers_that_expect_something_else_are_not_hand_made():
    assert has_hand_made_layers(nn.Sequential(nn.Linear(4, 2)), (4,))
    assert not has_hand_made_layers(nn.Sequential(nn.Linear(4, 2)), (3, 4))
    assert not has_hand_made_layers(nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Flatten()), (4,))
    assert not has_hand_made_layers(nn.Sequential(nn.Flatten(1, 2), nn.Linear(4, 2)), (3, 4))
    assert not has_hand_made_layers(nn.Sequential(nn.GroupNorm(2, 4), nn.Linear(4, 2)), (4,))
    assert has_hand_made_layers(nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)), (3, 4))
    assert has_hand_made_layers(nn.Sequential(nn.GroupNorm(2, 4)), (4, 5, 5))
    assert not has_hand_made_layers(nn.Sequential(nn.GroupNorm(2, 4, affine=False)), (4, 5, 5))
    norm = nn.GroupNorm(2, 4)
    norm.bias = None  # as its argument of this name has it in later versions of PyTorch
    assert not has_hand_made_layers(nn.Sequential(norm), (4, 5, 5))
    again = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 3), again, nn.Linear(3, 3), again, nn.Linear(3, 2))
    copies = {name: p.detach().unsqueeze(0).clone() for name, p in model.named_parameters()}
    assert [type(layer).__name__ for layer in HandMade(model, (4,), copies, True).layers].count("ReLU") == 2
    hooked = nn.Sequential(nn.Linear(4, 2))
    hooked[0].register_forward_hook(lambda module, x, y: 0 * y)
    assert not has_hand_made_layers(hooked, (4,))
