"""FSVRG's optimizers: a round, its numbers against NumPy, what they refuse."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fl.optimizers import FSVRGClient, FSVRGServer
from tests.test_optimizers import loss_fn, problem


def fsvrg_round(server, clients, models, data, targets, phi, order):
    gradients = []
    for client, model, x, y in zip(clients, models, data, targets, strict=True):
        client.zero_grad()
        loss_fn(model(x), y).backward()
        gradients.append((len(y), [p.grad.clone() for p in model.parameters()]))
    full = server.mean_gradient(gradients)
    for client, model, x, y in zip(clients, models, data, targets, strict=True):
        client.start_round(full)
        for i in order(len(y)):

            def closure(model=model, client=client, x=x[i : i + 1], y=y[i : i + 1]):
                client.zero_grad()
                loss_fn(model(x), y).backward()

            closure()
            client.step(phi, closure)
    server.step([(len(y), model.parameters()) for model, y in zip(models, targets, strict=True)])


def start_fsvrg(model, data, lr):
    models = [copy.deepcopy(model) for _ in data]
    server, clients = FSVRGServer(model.parameters()), [FSVRGClient(m.parameters(), lr=lr) for m in models]
    phis = [client.compute_nonzero_features_on_node_phi_k(x) for client, x in zip(clients, data, strict=True)]
    return server, clients, models, server.get_phi_and_compute_A(phis)


def test_fsvrg_is_algorithm_4_in_numpy():
    model, data, targets = problem()
    data[0][:, 1] = 0  # a feature that client 0 lacks, one that only client 2 has, one that nobody has
    data[0][:, 2] = data[1][:, 2] = 0
    for x in data:
        x[:, 3] = 0
        x[::2, 4] = 0
    W, b = model.weight.detach().numpy().copy(), model.bias.detach().numpy().copy()
    server, clients, models, (phi, _) = start_fsvrg(model, data, lr=0.3)
    for _ in range(2):
        fsvrg_round(server, clients, models, data, targets, phi, range)

    def gradient(W, b, x, y):
        z = x @ W.T + b
        p = np.exp(z - z.max(1, keepdims=True))
        p = p / p.sum(1, keepdims=True) - np.eye(4)[y]
        return p.T @ x / len(x), p.mean(0)

    xs, ys = [x.numpy() for x in data], [y.numpy() for y in targets]
    n_j, n = sum((x != 0).sum(0) for x in xs), sum(len(x) for x in xs)
    omega = sum((x != 0).any(0).astype(int) for x in xs)
    A = np.array([3 / o if o else 1 for o in omega])
    for _ in range(2):
        full = [sum(len(x) / n * gradient(W, b, x, y)[i] for x, y in zip(xs, ys, strict=True)) for i in range(2)]
        new = [np.zeros_like(W), np.zeros_like(b)]
        for x, y in zip(xs, ys, strict=True):
            n_kj, h = (x != 0).sum(0), 0.3 / len(x)
            S = np.array([(n_j[j] / n) / (n_kj[j] / len(x)) if n_kj[j] else 1 for j in range(6)])
            V, c = W.copy(), b.copy()
            for i in range(len(x)):
                g, a = gradient(V, c, x[i : i + 1], y[i : i + 1]), gradient(W, b, x[i : i + 1], y[i : i + 1])
                V, c = V - h * (S * (g[0] - a[0]) + full[0]), c - h * (g[1] - a[1] + full[1])
            new = [new[0] + len(x) / n * (V - W), new[1] + len(x) / n * (c - b)]
        W, b = W + A * new[0], b + new[1]
    np.testing.assert_allclose(model.weight.detach().numpy(), W, rtol=1e-9)
    np.testing.assert_allclose(model.bias.detach().numpy(), b, rtol=1e-9)


def test_sparse_and_dense_data_have_the_same_phi():
    _, (x, *_), _ = problem()
    x[x < 0] = 0
    client = FSVRGClient([torch.zeros(4, 6)], lr=1.0)
    dense = client.compute_nonzero_features_on_node_phi_k(x)
    for layout in (x.to_sparse(), x.to_sparse_coo()):
        sparse = client.compute_nonzero_features_on_node_phi_k(layout)
        assert torch.equal(sparse.counts, dense.counts)
        assert sparse.n == dense.n


def test_fsvrg_asks_for_its_closure_once_it_has_moved():
    model, (x, *_), (y, *_) = problem()
    client = FSVRGClient(model.parameters(), lr=0.1)
    loss_fn(model(x), y).backward()
    client.step(torch.ones(6, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="closure"):
        client.step(torch.ones(6, dtype=torch.float64))


def test_every_param_group_has_its_own_rate_and_schedulers_set_it():
    model, (x, *_), (y, *_) = problem()
    groups = [{"params": [model.weight], "lr": 0.5}, {"params": [model.bias]}]
    client = FSVRGClient(groups, lr=0.1)
    client.compute_nonzero_features_on_node_phi_k(x)
    scheduler = torch.optim.lr_scheduler.LambdaLR(client, [lambda t: 1 / (1 + t), lambda t: 1 - t])
    for t in range(3):
        rates = [0.5 / (1 + t), 0.1 * (1 - t)]
        if t == 2:
            break  # the second rate is negative now
        client.zero_grad()
        loss_fn(model(x), y).backward()
        client.start_round([p.grad for p in model.parameters()])
        before = [p.detach().clone() for p in model.parameters()]
        client.step(torch.ones(6))
        for p, w, lr in zip(model.parameters(), before, rates, strict=True):
            torch.testing.assert_close(p.detach(), w - lr / len(x) * p.grad)
        scheduler.step()
    with pytest.raises(ValueError, match=r"param group 1: lr is -0\.1"):
        client.step(torch.ones(6))


def test_the_step_returns_the_closures_loss():
    model, (x, *_), (y, *_) = problem()
    client = FSVRGClient(model.parameters(), lr=0.1)

    def closure():
        client.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        return loss

    at_anchor = closure().item()
    assert [client.step(torch.ones(6), closure).item() for _ in range(3)] == [at_anchor] * 3
    assert loss_fn(model(x), y) < at_anchor
    client = FSVRGClient(model.parameters(), lr=0.1)
    assert client.step(torch.ones(6)) is None


def counted(p, *data):
    return [FSVRGClient([p], lr=1.0).compute_nonzero_features_on_node_phi_k(x) for x in data]


def test_A_and_phi_are_float64_and_stay_so_when_saved(tmp_path):
    w = torch.zeros(3)  # in float32, which torch would round its optimizer's state to
    data = [torch.tensor([[1.0, 0.0, 1.0]] + [[0.0, 0.0, 1.0]] * n) for n in (2, 4, 6)] + [torch.zeros(1, 3)]
    server, client = FSVRGServer([w]), FSVRGClient([w], lr=0.1)
    phi, A = server.get_phi_and_compute_A(counted(w, *data))
    assert (phi.dtype, A.dtype) == (torch.float64, torch.float64)
    assert A.tolist() == [4 / 3, 1, 4 / 3]
    assert phi.tolist() == [3 / 16, 0, 15 / 16]
    client.compute_nonzero_features_on_node_phi_k(data[0])
    for optimizer, other in ((server, FSVRGServer([w])), (client, FSVRGClient([w], lr=0.1))):
        torch.save(optimizer.state_dict(), tmp_path / "o.pt")
        other.load_state_dict(torch.load(tmp_path / "o.pt", weights_only=True))
        saved, loaded = ([v for state in one.state.values() for v in state.values()] for one in (optimizer, other))
        assert len(saved) == 2
        for one, two in zip(saved, loaded, strict=True):
            assert one == two if isinstance(one, int) else torch.equal(one, two)


class Bag(nn.Module):
    """Sparse logistic regression: a weight a word, (d, 1), and the bias."""

    def __init__(self, d, sparse):
        super().__init__()
        self.words = nn.EmbeddingBag(d, 1, mode="sum", sparse=sparse, dtype=torch.float64)
        self.bias = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x):
        return (self.words(*bags(x)) + self.bias).squeeze(1)


def bags(x):
    """The words of each row of 0 and 1, and where each row's begin."""
    rows, words = x.nonzero(as_tuple=True)
    return words, torch.searchsorted(rows, torch.arange(len(x)))


@pytest.mark.parametrize("sparse", [False, True])
def test_an_embedding_of_the_features_is_scaled_as_a_linear_layer_is(sparse):
    g = torch.Generator().manual_seed(1)
    share = torch.tensor([0.9, 0.5, 0.3, 0.2, 0.1], dtype=torch.float64)
    data = [(torch.rand(n, 5, generator=g, dtype=torch.float64) < share).double() for n in (5, 6, 7)]
    for x in data:
        x[:, 0] = 1  # a bag with a word, at least
    data[0][:, 1] = 0
    data[1][:, 3] = 0
    targets = [torch.randint(0, 2, (len(x),), generator=g).double() for x in data]
    linear, bag = nn.Linear(5, 1).double(), Bag(5, sparse)
    with torch.no_grad():
        bag.words.weight.copy_(linear.weight.T)
        bag.bias.copy_(linear.bias)
    for model, forward in ((linear, lambda m, x: m(x).squeeze(1)), (bag, lambda m, x: m(x))):
        server, clients, models, (phi, A) = start_fsvrg(model, data, lr=0.5)
        assert len(set(A.tolist())) > 1
        for _ in range(2):
            gradients = []
            for client, m, x, y in zip(clients, models, data, targets, strict=True):
                client.zero_grad()
                nn.functional.binary_cross_entropy_with_logits(forward(m, x), y).backward()
                gradients.append((len(y), [p.grad for p in m.parameters()]))
            full = server.mean_gradient(gradients)
            for client, m, x, y in zip(clients, models, data, targets, strict=True):
                client.start_round(full)
                for i in range(len(y)):

                    def closure(client=client, m=m, x=x[i : i + 1], y=y[i : i + 1], forward=forward):
                        client.zero_grad()
                        loss = nn.functional.binary_cross_entropy_with_logits(forward(m, x), y)
                        loss.backward()
                        return loss

                    closure()
                    client.step(phi, closure)
            server.step([(len(y), m.parameters()) for m, y in zip(models, targets, strict=True)])
    torch.testing.assert_close(bag.words.weight.T, linear.weight, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(bag.bias, linear.bias, rtol=1e-12, atol=1e-14)


def test_a_square_weight_is_taken_as_a_linear_layers():
    weight = torch.zeros(2, 2, dtype=torch.float64)
    server = FSVRGServer([weight])
    server.get_phi_and_compute_A(counted(weight, torch.eye(2), torch.eye(2)[:1]))
    server.step([(1, [torch.ones(2, 2, dtype=torch.float64)])])
    assert weight.tolist() == [[1, 2], [1, 2]]
