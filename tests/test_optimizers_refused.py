"""What the optimizers refuse, in one line, and leave everything as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fl.optimizers import FederatedAvgClient, FederatedAvgServer, FSVRGClient, FSVRGServer
from tests.test_optimizers import problem


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda n, w: (0, w), "update 1: n_k is 0"),
        (lambda n, w: (float("nan"), w), "update 1: n_k is nan"),
        (lambda n, w: (n, w[:1]), "update 1: has 1 parameters; expected 2"),
        (lambda n, w: (n, [w[0].T.contiguous(), w[1]]), r"update 1: 0 is \(6, 4\); expected \(4, 6\)"),
        (lambda n, w: (n, [w[0] * float("inf"), w[1]]), "update 1: 0 is not finite"),
        (lambda n, w: (n, {"weight": w[0], "bias": w[1]}), "named_parameters"),
    ],
)
def test_what_is_refused_changes_nothing(spoil, message):
    model, *_ = problem()
    before = copy.deepcopy(model)
    good = [p.detach() + 1 for p in model.parameters()]
    server = FederatedAvgServer(model.parameters())
    with pytest.raises(ValueError, match=message):
        server.step([(3, list(good)), spoil(2, list(good))])
    with pytest.raises(ValueError, match="nothing to average"):
        server.step([])
    for p, q, g, w in zip(model.parameters(), before.parameters(), good, before.parameters(), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(g, w.detach() + 1)


def test_unknown_and_missing_names_are_told():
    model, *_ = problem()
    server = FederatedAvgServer(model.named_parameters())
    weights = {"weight": model.weight.detach(), "bais": model.bias.detach()}
    with pytest.raises(ValueError, match="update 0: lacks bias and has bais, unknown to the server"):
        server.step([(1, weights)])


def inference_mode_clone(tensor):
    with torch.inference_mode():
        return tensor.clone()


def with_third(change):
    """The state_dict with its third tensor, which two others come before, changed."""
    return lambda n, w: (n, {name: change(v) if i == 2 else v for i, (name, v) in enumerate(w.items())})


SPOILT = [
    (
        lambda n, w: (n, [w["0.weight"], w["0.bias"], w["1.weight"], w["1.bias"]]),
        "update 1: has 4 tensors where update 0",
    ),
    (with_third(inference_mode_clone), "update 1: 1.weight is a tensor of inference mode"),
    (with_third(lambda v: v[:1].expand(2)), "update 1: 1.weight has values that share memory"),
    (with_third(lambda v: torch.ones(4).as_strided((2,), (0,))), "update 1: 1.weight has values that share memory"),
    (with_third(lambda v: v.to(torch.complex64)), "update 1: 1.weight is torch.complex64; expected real"),
    (with_third(lambda v: v.to(torch.int64)), "update 1: 1.weight is torch.int64; expected torch.float64"),
    (with_third(lambda v: v.to_sparse()), "update 1: 1.weight is torch.sparse_coo"),
    (with_third(lambda v: v.to("meta")), "update 1: 1.weight is torch.strided on meta"),
    (with_third(lambda v: v.numpy()), "update 1: 1.weight: ndarray; expected a tensor"),
    (with_third(lambda v: None), "update 1: 1.weight: None; expected a tensor"),
    (with_third(lambda v: v * float("nan")), "update 1: 1.weight is not finite"),
    (with_third(lambda v: torch.full_like(v, 1.7e308)), "the new 1.weight, in torch.float64, is not finite"),
    (
        with_third(lambda v: torch.full_like(v, 1e6).half().fill_(6e4)),
        "the new 1.weight, in torch.float16",
    ),
    (lambda n, w: (n, {**w, "1.num_batches_tracked": torch.tensor(2.5)}), "1.num_batches_tracked is torch.float32"),
    (lambda n, w: (n, {**w, 5: w["0.bias"]}), "update 1: has 5, unknown to the server"),
    (lambda n, w: (n, list(w.items())), "update 1: has 7 parameters; expected 4"),
    (lambda n, w: (n, list(w.items())[:4]), "update 1: 0.weight: tuple; expected a tensor"),
    (lambda n, w: (n, None), "update 1: None; expected parameters or a state_dict"),
    (lambda n, w: (n, 5), "update 1: 5; expected parameters or a state_dict"),
    (lambda n, w: None, "update 1: None; expected a pair"),
    (lambda n, w: w, "update 1: OrderedDict; expected a pair"),
    (lambda n, w: (None, w), "update 1: n_k is None; expected a positive number"),
    (lambda n, w: (True, w), "update 1: n_k is True; expected a positive number"),
    (lambda n, w: (np.array([1.0, 2.0]), w), "update 1: n_k is ndarray; expected a positive number"),
    (lambda n, w: (10**400, w), "update 1: n_k is an integer too large for a float"),
    (lambda n, w: (-(10**5000), w), "update 1: n_k is an integer too large for a float"),
    (lambda n, w: (1.7e308, w), "the n_k add up to more than a float can hold"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILT)
@pytest.mark.parametrize("make", [FederatedAvgServer, FSVRGServer])
def test_an_update_that_cannot_be_averaged_or_written_changes_nothing(make, spoil, message):
    def net(value):
        model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(value)
        return model

    model, one, two = net(0.0), net(1.0), net(2.0)
    if "float16" in message:
        one[1].weight.data.fill_(1e6)
    n_1 = 1.7e308 if "add up" in message else 3
    spoilt = spoil(2, two.state_dict())
    server = make(model.named_parameters(), model.named_buffers())
    before = [{name: w.clone() for name, w in m.state_dict().items()} for m in (model, one, two)]
    for updates in ([(n_1, one.state_dict()), spoilt], iter([(n_1, one.state_dict()), spoilt])):
        with pytest.raises((TypeError, ValueError), match=message) as told:
            server.step(updates)
        assert "\n" not in str(told.value)
    for m, w in zip((model, one, two), before, strict=True):
        assert all(torch.equal(v, w[name]) for name, v in m.state_dict().items())


@pytest.mark.parametrize("change", [inference_mode_clone, lambda w: w[:1].expand(2), lambda w: w.to(torch.complex64)])
def test_a_server_whose_model_cannot_be_written_changes_nothing(change):
    own, update = [torch.zeros(2), change(torch.zeros(2))], [torch.ones(2), torch.ones(2)]
    with pytest.raises(ValueError, match=r"the server's 1|update 0: 1"):
        FederatedAvgServer(own).step([(1, update)])
    assert not own[0].any()
    assert all(w.all() for w in update)


@pytest.mark.parametrize("updates", [None, 5, np.zeros(3), torch.zeros(2)])
def test_what_is_no_list_of_updates_is_told(updates):
    model, *_ = problem()
    for method in (FederatedAvgServer.step, FSVRGServer.mean_gradient, FSVRGServer.get_phi_and_compute_A):
        with pytest.raises(TypeError, match="expected") as told:
            method(FSVRGServer(model.parameters()), updates)
        assert "\n" not in str(told.value)


MAKERS = [FederatedAvgServer, FSVRGServer, lambda p: FederatedAvgClient(p, lr=0.1), lambda p: FSVRGClient(p, lr=0.1)]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("params", [None, 5, np.zeros(3), torch.zeros(3), [np.zeros(3)], [None]])
def test_what_is_no_model_is_told(make, params):
    with pytest.raises(TypeError, match="params"):
        make(params)


def test_buffers_come_with_names_and_beside_names():
    model = nn.BatchNorm1d(2)
    with pytest.raises(ValueError, match="buffers: without the parameters' names"):
        FederatedAvgServer(model.parameters(), model.named_buffers())
    for buffers in (model.buffers(), None, 5, ["ab"], [("a", 1)]):
        with pytest.raises(TypeError, match=r"buffers: .*named_buffers"):
            FederatedAvgServer(model.named_parameters(), buffers)
    with pytest.raises(ValueError, match="two tensors of the server are named weight"):
        FederatedAvgServer(model.named_parameters(), [("weight", torch.zeros(2))])
    server = FederatedAvgServer(model.named_parameters())
    with pytest.raises(ValueError, match="two tensors of the server are named bias"):
        server.add_param_group({"params": [("bias", torch.zeros(2))]})
    assert server.names == ["weight", "bias"]


@pytest.mark.parametrize(
    "lr", [float("nan"), float("inf"), -0.1, None, "0.1", 10**400, np.array([0.1, 0.2]), torch.ones(2)]
)
@pytest.mark.parametrize("make", [FederatedAvgClient, FSVRGClient])
def test_a_rate_that_no_step_can_have(make, lr):
    one, two = torch.ones(2), torch.ones(2)
    with pytest.raises(ValueError, match=r"lr is .*; expected a finite number"):
        make([one], lr=lr)
    with pytest.raises(ValueError, match="param group: lr is"):
        make([{"params": [one]}, {"params": [two], "lr": lr}], lr=0.1)
    client = make([one], lr=0.1)
    with pytest.raises(ValueError, match="param group: lr is"):
        client.add_param_group({"params": [two], "lr": lr})
    assert len(client.param_groups) == 1
