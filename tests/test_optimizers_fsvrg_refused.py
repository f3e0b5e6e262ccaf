"""What FSVRG's optimizers refuse, in one line, and leave everything as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fl.optimizers import FeatureCounts, FSVRGClient, FSVRGServer
from tests.test_optimizers import loss_fn, problem

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("lr", [NAN, INF, -0.1, None, pytest.param(10**400, id="10**400"), 1e39])
def test_a_rate_that_became_impossible_moves_nothing(lr):
    one, two = torch.ones(2), torch.ones(2)
    one.grad, two.grad = torch.ones(2), torch.ones(2)
    client = FSVRGClient([{"params": [one]}, {"params": [two]}], lr=0.1)
    client.param_groups[1]["lr"] = lr
    with pytest.raises(ValueError, match="param group 1: lr is"):
        client.step(torch.ones(2))
    assert (one == 1).all()
    client.param_groups[1]["lr"] = 0  # where a schedule may end
    client.step(torch.ones(2))
    assert (one < 1).all()
    assert (two == 1).all()


@pytest.mark.parametrize(
    ("counts", "n"),
    [
        ([1.0, NAN], 3), ([1.0, -1.0], 3), ([1.0, 4.0], 3), ([1.0, 0.5], 3), ([1.0, INF], 3), ([[1.0, 2.0]], 3),
        ([1.0, 2.0], 0), ([1.0, 2.0], -3), ([1.0, 2.0], NAN), ([1.0, 2.0], INF), ([1.0, 2.0], None),
        pytest.param([1.0, 2.0], 10**400, id="10**400"),
    ],
)  # fmt: skip
def test_counts_of_features_that_no_examples_have(counts, n):
    server = FSVRGServer([torch.zeros(2)])
    phi, A = server.get_phi_and_compute_A([FeatureCounts(torch.tensor([1.0, 0.0]), 3), FeatureCounts(torch.ones(2), 1)])
    with pytest.raises(ValueError, match=r"client 1: (n|counts)"):
        server.get_phi_and_compute_A([FeatureCounts(torch.ones(2), 3), FeatureCounts(torch.tensor(counts), n)])
    for other in (None, 5, torch.ones(2), FeatureCounts(np.ones(2), 3), FeatureCounts(None, 3), (torch.ones(2), 3)):
        with pytest.raises(TypeError, match=r"client 0: .*expected"):
            server.get_phi_and_compute_A([other])
    with pytest.raises(ValueError, match="no clients"):
        server.get_phi_and_compute_A([])
    with pytest.raises(ValueError, match="equal numbers"):
        server.get_phi_and_compute_A([FeatureCounts(torch.ones(2), 3), FeatureCounts(torch.ones(3), 3)])
    server.step([(1, [torch.ones(2)])])
    assert torch.equal(server.parameters[0].double(), A), "what was refused is not remembered"
    assert phi.tolist() == [0.5, 0.25]


@pytest.mark.parametrize("n", [0, -1, NAN, INF, None, True, pytest.param(10**400, id="10**400"), np.array([1, 2])])
def test_a_mean_gradient_of_impossible_counts(n):
    server = FSVRGServer([torch.zeros(2)])
    with pytest.raises(ValueError, match="gradient 1: n_k is"):
        server.mean_gradient([(1, [torch.ones(2)]), (n, [torch.ones(2)])])
    with pytest.raises(ValueError, match="the n_k add up"):
        server.mean_gradient([(1.7e308, [torch.ones(2)]), (1.7e308, [torch.ones(2)])])
    with pytest.raises(ValueError, match="nothing to average"):
        server.mean_gradient([])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([torch.ones(2)], "has 1 tensors; expected 2"),
        ([torch.ones(2)] * 3, "has 3 tensors; expected 2"),
        ([torch.ones(2), torch.ones(2)], r"1 is \(2,\); expected \(3,\)"),
        ([torch.ones(2), torch.ones(3) * NAN], "1 is not finite"),
        ([torch.ones(2), torch.full((3,), 1e300, dtype=torch.float64)], "1 is not finite"),
        ([torch.ones(2), torch.ones(3) * 1j], "1 is torch.complex64"),
        ([torch.ones(2), np.ones(3)], "1: ndarray; expected a tensor"),
        (None, "None; expected one tensor per parameter"),
        pytest.param(10**400, "too large for a float; expected one tensor per parameter", id="10**400"),
    ],
)
def test_gradients_that_do_not_fit(tensors, message):
    one, two = torch.zeros(2), torch.zeros(3)
    client = FSVRGClient([one, two], lr=0.1)
    with pytest.raises((TypeError, ValueError), match=f"gradient.*{message}"):
        client.start_round(tensors)
    assert not client.state
    with pytest.raises((TypeError, ValueError), match=f"gradient 0: .*{message}|gradient 0.*{message}"):
        FSVRGServer([one, two]).mean_gradient([(1, tensors)])


@pytest.mark.parametrize(
    "phi",
    [
        torch.tensor([0.5, NAN]), torch.tensor([0.5, -0.5]), torch.tensor([0.5, 1.5]), torch.tensor([0.0, 0.5]),
        torch.tensor([0.5, INF]), torch.ones(3), torch.ones(1), torch.ones(2, 1), torch.ones(2) * 1j,
        None, 0.5, pytest.param(10**400, id="10**400"), np.ones(2), [0.5, 0.5],
    ],
)  # fmt: skip
def test_a_phi_that_cannot_be_moves_nothing(phi):
    w = torch.zeros(2)
    w.grad = torch.ones(2)
    client = FSVRGClient([w], lr=0.1)
    client.compute_nonzero_features_on_node_phi_k(torch.tensor([[1.0, 0.0]]))
    with pytest.raises((TypeError, ValueError), match=r"^phi"):
        client.step(phi)
    good = torch.tensor([0.5, 0.0])  # a feature that nobody has has no share
    client.step(good)
    assert (w < 0).all()
    good.fill_(NAN)  # in place, after it was found good
    with pytest.raises(ValueError, match=r"^phi"):
        client.step(good, lambda: None)


@pytest.mark.parametrize("shape", [(5,), (3, 2), (7, 3, 4), (4, 3, 2), ()])
def test_a_first_parameter_without_the_features_is_refused(shape):
    p = torch.zeros(shape)
    client, server = FSVRGClient([p, torch.zeros(4)], lr=0.1), FSVRGServer([p, torch.zeros(4)])
    d = 7 if shape == (7, 3, 4) else 6
    told = rf"the first parameter is \(.*the {d} features|no parameter has a weight for each of the {d}"
    with pytest.raises(ValueError, match=told):
        client.compute_nonzero_features_on_node_phi_k(torch.ones(2, d))
    with pytest.raises(ValueError, match=told):
        server.get_phi_and_compute_A([FeatureCounts(torch.ones(d), 2)])
    assert not client.state.get("shared")
    assert not server.state.get("shared")


@pytest.mark.parametrize("data", [None, 5, np.ones((2, 6)), [[1.0] * 6], torch.ones(6), torch.ones(0, 6)])
def test_data_without_features_is_told(data):
    with pytest.raises((TypeError, ValueError), match=r"data.*expected .*\(n_k, features\)"):
        FSVRGClient([torch.zeros(6)], lr=0.1).compute_nonzero_features_on_node_phi_k(data)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_closure_that_raises_leaves_everything_as_it_was(error, moved):
    model, (x, *_), (y, *_) = problem()
    model = nn.Sequential(nn.BatchNorm1d(6).double(), model)
    client = FSVRGClient(model.parameters(), lr=0.5)
    if moved:
        loss_fn(model(x), y).backward()
        client.step(torch.ones(6))
    client.zero_grad()
    loss_fn(model(x), y).backward()
    before, state = copy.deepcopy(model), copy.deepcopy(client.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]

    def closure():
        client.zero_grad(set_to_none=False)
        loss_fn(model(x), y).backward()
        raise error

    with pytest.raises(error):
        client.step(torch.ones(6), closure)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in zip(model.buffers(), before.buffers(), strict=True))
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    after = client.state_dict()
    assert str(after) == str(state)
    with pytest.raises(TypeError, match="closure: 5; expected a function"):
        client.step(torch.ones(6), 5)


def test_a_parameter_that_joins_within_a_round_is_told_before_anything_moves():
    model, (x, *_), (y, *_) = problem()
    client = FSVRGClient([model.weight], lr=0.5)
    loss_fn(model(x), y).backward()
    client.start_round([model.weight.grad])
    client.add_param_group({"params": [model.bias]})
    before = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match="a parameter has joined since start_round; call start_round again"):
        client.step(torch.ones(6), lambda: None)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True))
    client.compute_nonzero_features_on_node_phi_k(x)
    client.start_round([p.grad for p in model.parameters()])
    client.step(torch.ones(6))
    for p, q in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach() - 0.5 / len(x) * p.grad)
