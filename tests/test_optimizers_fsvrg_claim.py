"""The claim of FSVRG's paper, on sparse logistic regression."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fl.optimizers import FederatedAvgClient, FederatedAvgServer, FSVRGClient, FSVRGServer


def hashed_text(clients=20, features=300, seed=0, most=80):
    """Sparse logistic regression: bags of hashed words, n_k from 10 to `most`.

    The first ten words stand in most texts; the others have a long tail, and each client has topics of its own.
    """
    g = torch.Generator().manual_seed(seed)
    truth = torch.randn(features, generator=g, dtype=torch.float64) * 2
    data, targets = [], []
    for _ in range(clients):
        n = int(torch.randint(10, most, (), generator=g))
        own = torch.rand(features, generator=g, dtype=torch.float64) < 0.1  # topics
        share = 0.5 * own / (1 + torch.arange(features, dtype=torch.float64) / 20)
        share[:10] = 0.9
        x = (torch.rand(n, features, generator=g, dtype=torch.float64) < share).double()
        noise = torch.randn(n, generator=g, dtype=torch.float64) * 0.1
        data.append(x)
        targets.append(((x - share) @ truth + noise > 0).double())
    return data, targets


class SparseLogistic(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, dtype=torch.float64))

    def forward(self, x):
        return x @ self.weight


def rounds_to(target, step, objective, most=60):
    for t in range(1, most + 1):
        step(t)
        if not objective() > -1 or objective() > 10:
            return most + 1  # diverged
        if objective() <= target:
            return t
    return most + 1


@pytest.mark.slow
def test_fsvrg_needs_fewer_rounds_on_sparse_features():
    """The paper's claim: fewer rounds than FedAvg and than distributed gradient descent, each at its best rate."""
    data, targets = hashed_text()
    x, y = torch.cat(data), torch.cat(targets)
    lam = 1.0 / len(y)

    def loss(model, x, y):
        return F.binary_cross_entropy_with_logits(model(x), y) + lam / 2 * model.weight.square().sum()

    optimum = SparseLogistic(x.shape[1])
    solver = torch.optim.LBFGS(optimum.parameters(), max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        value = loss(optimum, x, y)
        value.backward()
        return value

    solver.step(closure)
    best, at_start = loss(optimum, x, y).item(), loss(SparseLogistic(x.shape[1]), x, y).item()
    target = best + 0.05 * (at_start - best)
    assert best < 0.8 * at_start

    def gradient_descent(lr):
        model = SparseLogistic(x.shape[1])
        client = FederatedAvgClient(model.parameters(), lr=lr)

        def step(t):
            client.zero_grad()
            loss(model, x, y).backward()
            client.step()

        return rounds_to(target, step, lambda: loss(model, x, y).item())

    def local(make_server, make_client, lr, variance_reduced):
        model = SparseLogistic(x.shape[1])
        models = [copy.deepcopy(model) for _ in data]
        server, clients = make_server(model.parameters()), [make_client(m.parameters(), lr=lr) for m in models]
        phi = None
        if variance_reduced:
            phi, _ = server.get_phi_and_compute_A(
                [c.compute_nonzero_features_on_node_phi_k(x_k) for c, x_k in zip(clients, data, strict=True)]
            )

        def step(t):
            full = []
            if variance_reduced:
                for m, c, x_k, y_k in zip(models, clients, data, targets, strict=True):
                    c.zero_grad()
                    loss(m, x_k, y_k).backward()
                    full.append((len(y_k), [p.grad.clone() for p in m.parameters()]))
                full = server.mean_gradient(full)
            for m, c, x_k, y_k in zip(models, clients, data, targets, strict=True):
                if variance_reduced:
                    c.start_round(full)
                for i in torch.randperm(len(y_k), generator=torch.Generator().manual_seed(t)).tolist():

                    def closure(m=m, c=c, x_i=x_k[i : i + 1], y_i=y_k[i : i + 1]):
                        c.zero_grad()
                        loss(m, x_i, y_i).backward()

                    closure()
                    c.step(phi, closure) if variance_reduced else c.step()
            server.step([(len(y_k), m.parameters()) for m, y_k in zip(models, targets, strict=True)])

        return rounds_to(target, step, lambda: loss(model, x, y).item(), most=25)

    fsvrg = min(local(FSVRGServer, FSVRGClient, lr, True) for lr in (6.0, 10.0))
    fedavg = min(local(FederatedAvgServer, FederatedAvgClient, lr, False) for lr in (0.1, 0.3, 0.5, 1.0))
    descent = min(gradient_descent(lr) for lr in (0.3, 1.0, 1.5, 2.0))
    print(f"rounds: fsvrg {fsvrg}, fedavg {fedavg}, gradient descent {descent}")
    assert fsvrg < fedavg
    assert fsvrg < descent
