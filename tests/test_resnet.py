"""resnet18_gn, the largest network: what it is made of, and that every engine carries it. The rest of it is slow."""

from __future__ import annotations

import builtins
import warnings

import pytest
import torch
from torch import nn

from fl.engines import choose
from fl.errors import FlagError
from fl.models.resnet18_gn import resnet18_gn
from tests.test_engines import OPTIMIZERS, both, hand_made
from tests.test_golden import by_hand, close, config, ragged, run, task_of
from tests.test_graphed import Recorder, graphed

models = pytest.importorskip("torchvision.models")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return resnet18_gn((3, 32, 32), 10)


def test_it_is_torchvisions_with_group_norm_and_a_stem_for_small_images(network):
    assert sum(p.numel() for p in network.parameters()) == 11_173_962
    assert not list(network.buffers())
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    assert len(norms) == 20
    assert {norm.num_groups for norm in norms} == {2}
    theirs = models.resnet18(num_classes=10)
    other = {name for name, p in theirs.named_parameters() if p.shape != dict(network.named_parameters())[name].shape}
    assert other == {"conv1.weight"}
    assert network.conv1.stride == (1, 1)
    sides = []
    hooks = [layer.register_forward_hook(lambda *args: sides.append(args[2].shape[-1])) for layer in network.children()]
    network(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    assert sides == [32, 32, 32, 32, 32, 16, 8, 4, 1, 10]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 24, 24), (2, 9, 17)])
def test_it_takes_the_mean_of_whole_maps_of_any_size(shape):
    model = resnet18_gn(shape, 7)
    x = torch.rand(2, *shape)
    logits = model(x)
    model.avgpool = nn.AdaptiveAvgPool2d(1)  # torchvision's
    torch.testing.assert_close(model(x), logits)


def small(**flags):
    """Two steps of two clients are enough, because each takes tenths of a second."""
    return config(model="resnet18_gn", global_epoch=1, local_epoch=1, batch_size=2, **flags)


def test_the_general_path_carries_it():
    c = small(num_clients=2, num_select_clients=2, **OPTIMIZERS["sgd"])
    assert not hand_made(c)
    assert choose(task_of(c)) == ("stacked", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch.func says so where it knows no fast way
        both(c, stack_size=2, partition=ragged((3, 1)))


def test_without_torchvision_one_line_says_so(monkeypatch):
    real = builtins.__import__

    def broken(name, *rest):
        if name.startswith("torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(FlagError, match=r"--model resnet18_gn: needs torchvision, whose import failed \(operator"):
        resnet18_gn((1, 8, 8), 3)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_with_every_optimizer(optimizer):
    both(small(**OPTIMIZERS[optimizer]), stack_size=3)


@pytest.mark.slow
def test_replayed_steps():
    recorder = Recorder()
    both(config(model="resnet18_gn", global_epoch=2, batch_size=2), stack_size=3, engine=graphed(recorder))
    assert recorder.replayed > recorder.recorded > 0


@pytest.mark.slow
def test_algorithm_1_by_hand():
    c = small(init_lr=0.05)
    task = task_of(c)
    w0 = task.w
    after = run(c, task, ragged())[-1]
    task.model.load_state_dict(w0)
    close(after.w, by_hand(c, task, ragged()), 1e-9)


@pytest.mark.slow
def test_it_learns_and_workers_and_resumed_runs_agree(command):
    flags = "--model resnet18_gn --augment crop_flip --init_lr 0.01 --batch_size 8"
    whole = command("federated", f"{flags} --engine stacked --global_epoch 4")
    assert whole.records[-1]["train_loss"] < whole.records[1]["train_loss"]
    assert command("federated", f"{flags} --engine distributed --workers 2 --global_epoch 4").sha256 == whole.sha256
    command("federated", f"{flags} --engine stacked --global_epoch 2", folder="part")
    assert command("federated", "--resume --global_epoch 4", folder="part").sha256 == whole.sha256
