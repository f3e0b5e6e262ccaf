"""The documented round of FSVRG: frozen parameters, BatchNorm, copies made within it."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from torch import nn

from fl.optimizers import FSVRGClient, FSVRGServer
from tests.test_optimizers import loss_fn, problem


def documented_round(model, data, targets, client, server):
    """FSVRGClient's docstring, with one client that holds the data: the server's model is its own."""
    phi, _ = server.get_phi_and_compute_A([client.compute_nonzero_features_on_node_phi_k(data)])
    gradients = []
    client.zero_grad(); loss_fn(model(data), targets).backward()  # fmt: skip # noqa: E702
    gradients.append((len(data), client.gradients()))
    client.start_round(server.mean_gradient(gradients))
    for i in range(0, len(data), 2):
        x, y = data[i : i + 2], targets[i : i + 2]

        def closure(x=x, y=y):
            client.zero_grad(); loss = loss_fn(model(x), y); loss.backward(); return loss  # fmt: skip # noqa: E702

        closure()
        client.step(phi, closure)
    server.step([(len(data), model.parameters())])


def two_layers():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4)).double()


@pytest.mark.parametrize("frozen", [["0.weight", "0.bias"], ["2.bias"]])
def test_frozen_parameters_stay_in_the_documented_round(frozen):
    model, (_, x, _), (_, y, _) = two_layers(), *problem()[1:]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    before = copy.deepcopy(model)
    documented_round(model, x, y, FSVRGClient(model.parameters(), lr=0.1), FSVRGServer(model.parameters()))
    for (name, p), q in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(p, q) == (name in frozen)
    # None is taken as torch leaves it in .grad.
    mean = FSVRGServer(model.parameters()).mean_gradient([(1, [p.grad for p in model.parameters()])])
    assert [bool(g.any()) for g in mean] == [p.grad is not None for p in model.parameters()]


def test_a_minibatch_moves_batchnorms_statistics_once():
    model, (_, x, _), (_, y, _) = two_layers(), *problem()[1:]
    plain = copy.deepcopy(model)
    client = FSVRGClient(model.parameters(), lr=1e-9)
    for part in (x[:2], x[2:4], x[4:]):

        def closure(x=part):
            client.zero_grad()
            loss_fn(model(x), y[:2]).backward()

        closure()
        client.step(torch.ones(6), closure)
        plain(part)
    assert model[1].num_batches_tracked == 3
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, plain.get_buffer(name), msg=name)


def test_buffers_that_another_thread_moves_meanwhile_are_left_alone():
    model, other = two_layers(), two_layers()
    x, y = torch.randn(4, 6, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    client = FSVRGClient(model.parameters(), lr=0.1)

    def closure():
        thread = threading.Thread(target=other, args=(x,))
        thread.start()
        thread.join()
        client.zero_grad()
        loss_fn(model(x), y).backward()

    client.step(torch.ones(6), closure)
    assert (model[1].num_batches_tracked, other[1].num_batches_tracked) == (0, 1)


def test_the_closure_leaves_the_gradients_that_the_step_was_taken_from():
    model, (x, *_), (y, *_) = problem()
    client = FSVRGClient(model.parameters(), lr=0.5)

    def closure():
        client.zero_grad(set_to_none=False)
        loss_fn(model(x), y).backward()

    for _ in range(3):
        closure()
        before = [p.grad.clone() for p in model.parameters()]
        client.step(torch.ones(6), closure)
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_client_copied_within_its_round_goes_on_alike(copied):
    model, (x, *_), (y, *_) = problem()
    client = FSVRGClient(model.parameters(), lr=0.1)
    phi = client.compute_nonzero_features_on_node_phi_k(x).counts / len(x)

    def step(client, model):
        def closure():
            client.zero_grad()
            loss_fn(model(x[:2]), y[:2]).backward()

        closure()
        client.step(phi, closure)

    step(client, model)
    other, twin = copied((client, model))
    for _ in range(2):
        step(client, model)
        step(other, twin)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
    assert not any(p is q for p, q in zip(client.parameters, other.parameters, strict=True))
