"""The optimizers in a training script of one's own, without the runner."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fl.optimizers import FederatedAvgClient, FederatedAvgServer, FSVRGClient, FSVRGServer

loss_fn = F.cross_entropy


def problem(clients=3, features=6, seed=0):
    """A model and each client's data (n_k, features) and targets, n_k = 5, 6, 7, ..."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Linear(features, 4).double()
    data = [torch.randn(5 + k, features, generator=generator, dtype=torch.float64) for k in range(clients)]
    targets = [torch.randint(0, 4, (len(x),), generator=generator) for x in data]
    return model, data, targets


def test_the_usage_as_it_is_documented():
    model, data, targets = problem()
    input, target = data[0], targets[0]
    n_training_examples = len(target)

    server = FederatedAvgServer(model.parameters())
    # on every client
    client = FederatedAvgClient(model.parameters(), lr=0.1)
    client.zero_grad(); loss_fn(model(input), target).backward(); client.step()  # fmt: skip # noqa: E702
    nk_params = (n_training_examples, model.parameters())
    # on the server: weighted average, then redistribute
    server.step([nk_params])

    server = FSVRGServer(model.parameters())
    client = FSVRGClient(model.parameters(), lr=0.1)
    phi_k = client.compute_nonzero_features_on_node_phi_k(input)
    phi, A = server.get_phi_and_compute_A([phi_k])
    assert torch.equal(A, torch.ones(6, dtype=torch.float64))
    before = [p.detach().clone() for p in model.parameters()]
    client.zero_grad(); loss_fn(model(input), target).backward()  # fmt: skip # noqa: E702
    client.step(phi)
    for p, w in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), w - 0.1 / n_training_examples * p.grad)
    server.step([(n_training_examples, model.parameters())])


def test_a_round_of_fedavg_averages_and_redistributes():
    model, data, targets = problem()
    start = [p.detach().clone() for p in model.parameters()]
    copies = [copy.deepcopy(model) for _ in data]
    server = FederatedAvgServer(model.parameters())
    for mine, x, y in zip(copies, data, targets, strict=True):
        client = FederatedAvgClient(mine.parameters(), lr=0.1)
        client.zero_grad()
        loss_fn(mine(x), y).backward()
        client.step()
    server.step([(len(y), mine.parameters()) for mine, y in zip(copies, targets, strict=True)])
    # One full-batch step each is one full-batch step on the union.
    for p, w in zip(model.parameters(), start, strict=True):
        p.data.copy_(w)
    x, y = torch.cat(data), torch.cat(targets)
    expected = torch.autograd.grad(loss_fn(model(x), y), list(model.parameters()))
    for mine in copies:
        for p, w, g in zip(mine.parameters(), start, expected, strict=True):
            torch.testing.assert_close(p.detach(), w - 0.1 * g)


def test_state_dicts_with_buffers():
    def net():
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))

    model, one, two = net(), net(), net()
    one(torch.randn(8, 3))
    for _ in range(3):
        two(torch.randn(8, 3) + 5)
    expected = {name: (one.state_dict()[name] + 3 * two.state_dict()[name]) / 4
                for name in one.state_dict() if "num_batches" not in name}  # fmt: skip
    server = FederatedAvgServer(model.named_parameters(), model.named_buffers())
    server.step([(1, one.state_dict()), (3, two.state_dict())])
    for module in (model, one, two):
        for name, value in expected.items():
            torch.testing.assert_close(module.state_dict()[name], value)
        assert module.state_dict()["1.num_batches_tracked"] == 3


MAKERS = [
    FederatedAvgServer,
    lambda p: FederatedAvgClient(p, lr=0.1, momentum=0.9),
    FSVRGServer,
    lambda p: FSVRGClient(p, lr=0.1),
]


@pytest.mark.parametrize("make", MAKERS)
def test_they_are_optimizers_whose_state_can_be_saved(make, tmp_path):
    model, (x, *_), (y, *_) = problem()
    optimizer = make(model.parameters())
    assert isinstance(optimizer, torch.optim.Optimizer)
    loss_fn(model(x), y).backward()
    if isinstance(optimizer, FSVRGServer):
        optimizer.get_phi_and_compute_A([FSVRGClient([x], lr=1.0).compute_nonzero_features_on_node_phi_k(x)])
    elif isinstance(optimizer, FSVRGClient):
        optimizer.compute_nonzero_features_on_node_phi_k(x)
        optimizer.step(torch.ones(6))
    elif isinstance(optimizer, FederatedAvgClient):
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "o.pt")
    other = make(copy.deepcopy(model).parameters())
    other.load_state_dict(torch.load(tmp_path / "o.pt", weights_only=True))
    for one, two in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[k], two[k]) for k in one if torch.is_tensor(one[k]))


def batchnorm():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
@pytest.mark.parametrize("make", [FederatedAvgServer, FSVRGServer])
def test_a_copied_server_serves_the_copied_model(make, copied):
    model, update = batchnorm(), batchnorm()
    server = make(model.named_parameters(), model.named_buffers())
    if make is FSVRGServer:
        server.get_phi_and_compute_A([FSVRGClient([x], lr=1.0).compute_nonzero_features_on_node_phi_k(x)
                                      for x in (torch.eye(3), torch.eye(3)[:2])])  # fmt: skip
    before = copy.deepcopy(model.state_dict())
    other, twin = copied((server, model))
    update[1].running_mean.fill_(7)
    other.step([(1, copy.deepcopy(update).state_dict())])
    assert twin[1].running_mean.tolist() == [7, 7]
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    server.step([(1, update.state_dict())])
    assert all(torch.equal(model.state_dict()[name], twin.state_dict()[name]) for name in before)


def test_arguments_may_be_generators():
    model, *_ = problem()
    server = FSVRGServer(p for p in model.parameters())
    client = FSVRGClient((p for p in model.parameters()), lr=0.1)
    phi, _ = server.get_phi_and_compute_A(client.compute_nonzero_features_on_node_phi_k(x) for x in [torch.ones(2, 6)])
    client.start_round(g for g in server.mean_gradient((n, (p.detach() for p in model.parameters())) for n in (1, 3)))
    loss_fn(model(torch.ones(2, 6).double()), torch.tensor([0, 1])).backward()
    client.step(phi)
    updates = [[torch.full_like(p, value) for p in model.parameters()] for value in (1.0, 5.0)]
    FederatedAvgServer(model.parameters()).step((n, (w for w in w_k)) for n, w_k in zip((1, 3), updates, strict=True))
    assert all((p == 4).all() for p in model.parameters())


@pytest.mark.parametrize(
    "unit", [1, 1e-3, 1e-30, 2.0**-1074, 1e290, pytest.param(10**200, id="10**200"), np.float32(0.5), np.int64(3)]
)
def test_only_the_proportions_of_the_numbers_of_examples_count(unit):
    w = torch.zeros(3, dtype=torch.float64)
    updates = [torch.full_like(w, value) for value in (1.0, 5.0)]
    FederatedAvgServer([w]).step([(unit, [updates[0]]), (3 * unit, [updates[1]])])
    torch.testing.assert_close(w, torch.full_like(w, 4.0))


def test_named_parameters_may_come_in_groups():
    model = batchnorm()
    server = FederatedAvgServer([{"params": model[0].named_parameters("0")}], model.named_buffers())
    server.add_param_group({"params": model[1].named_parameters("1")})
    update = batchnorm()
    server.step([(1, update.state_dict())])
    assert all(torch.equal(w, update.state_dict()[name]) for name, w in model.state_dict().items())


def test_views_of_one_vector_can_be_updates():
    """As from torch.nn.utils.vector_to_parameters, or the outputs of split, which autograd forbids to change."""
    model = nn.Linear(3, 2)
    flat = torch.zeros(8, requires_grad=True)
    weight, bias = flat.split([6, 2])
    FederatedAvgServer(model.parameters()).step([(1, [weight.view(2, 3), bias])])
    assert all((p == 0).all() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_clients_may_keep_the_model_in_another_precision(dtype):
    model = nn.Linear(3, 2)
    one, two = ([torch.full_like(p, value) for p in model.parameters()] for value in (1.0, 5.0))
    two[0] = two[0].to(dtype)
    FederatedAvgServer(model.parameters()).step([(1, one), (3, two)])
    assert all((w.float() == 4).all() for w in (*model.parameters(), *one, *two))
    assert two[0].dtype == dtype
