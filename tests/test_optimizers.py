"""The optimizers in a training script of one's own, without the runner."""

from __future__ import annotations

import copy

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


# --- FSVRG


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
    import numpy as np

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
