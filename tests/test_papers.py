"""Every algorithm against its paper, written again in NumPy: softmax regression on three ragged clients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fl.rng import select_clients, shuffles
from tests.test_algorithms import FLAGS, flags, run
from tests.test_golden import config, ragged, task_of


class Toy:
    """The clients' data and minibatches, and the gradient of the mean cross-entropy of softmax regression."""

    def __init__(self, c):
        self.c, task = c, task_of(c)
        self.partition = ragged()
        self.n = np.array(self.partition.sizes.tolist(), dtype=float)
        x, y = task.data.batch(task.data.train, slice(None))
        self.x, self.y = x.flatten(1).numpy(), np.eye(task.data.classes)[y.numpy()]
        self.w = np.concatenate([task.w["1.weight"].numpy(), task.w["1.bias"].numpy()[:, None]], 1)

    def gradient(self, w, b):
        x = np.concatenate([self.x[b], np.ones((len(b), 1))], 1)
        z = x @ w.T
        p = np.exp(z - z.max(1, keepdims=True))
        return (p / p.sum(1, keepdims=True) - self.y[b]).T @ x / len(b)

    def batches(self, k, t):
        mine = self.partition[k].numpy()
        B = self.c.batch_size or len(mine)
        for e in range((t - 1) * self.c.local_epoch, t * self.c.local_epoch):
            order = mine[shuffles(self.c.seed, [(k, e)], len(mine), torch.device("cpu"))[0].numpy()]
            yield from (order[i : i + B] for i in range(0, len(mine), B))

    def local(self, k, t, w_t, direction):
        """Client k's model and number of steps, each step along -direction(gradient, w, batch)."""
        w, steps = w_t.copy(), 0
        for b in self.batches(k, t):
            w, steps = w - self.c.init_lr * direction(self.gradient(w, b), w, b), steps + 1
        return w, steps

    def of(self, t):
        """The clients of round t: two of the three, or all."""
        return select_clients(self.c.seed, t, 3, self.c.num_select_clients)

    def mean(self, S, values):
        n = self.n[S]
        return sum(n_k * v for n_k, v in zip(n, values, strict=True)) / n.sum()


def plain(toy, t, w, memory):
    S = toy.of(t)
    return toy.mean(S, [toy.local(k, t, w, lambda g, *_: g)[0] for k in S])


def fedsgd(toy, t, w, memory):
    return w - toy.c.init_lr * toy.gradient(w, np.concatenate([toy.partition[k] for k in toy.of(t)]))


def fedprox(toy, t, w, memory):
    S, mu = toy.of(t), toy.c.proximal_mu
    return toy.mean(S, [toy.local(k, t, w, lambda g, v, b: g + mu * (v - w))[0] for k in S])


def fedavgm(toy, t, w, memory):
    v = toy.c.server_momentum * memory.get("v", 0) + plain(toy, t, w, memory) - w
    memory["v"] = v
    return w + toy.c.server_lr * v


def adaptive(rule):
    def server(toy, t, w, memory):
        c = toy.c
        delta = plain(toy, t, w, memory) - w
        memory["m"] = c.server_momentum * memory.get("m", 0) + (1 - c.server_momentum) * delta
        memory["v"] = rule(memory.get("v", np.full_like(w, c.server_tau**2)), delta**2, c.server_beta2)
        return w + c.server_lr * memory["m"] / (np.sqrt(memory["v"]) + c.server_tau)

    return server


def scaffold(toy, t, w, memory):
    """c is the mean of the variates of all three clients, whoever trains."""
    c_k = memory.setdefault("c_k", [np.zeros_like(w) for _ in range(3)])
    S, c, new = toy.of(t), toy.mean([0, 1, 2], c_k), list(c_k)
    models = []
    for k in S:
        w_k, steps = toy.local(k, t, w, lambda g, *_, k=k: g - c_k[k] + c)
        models.append(w_k)
        new[k] = c_k[k] - c + (w - w_k) / (steps * toy.c.init_lr)
    memory["c_k"] = new
    return toy.mean(S, models)


def fednova(toy, t, w, memory):
    S = toy.of(t)
    done = [toy.local(k, t, w, lambda g, *_: g) for k in S]
    tau_eff = toy.mean(S, [steps for _, steps in done])
    return w - tau_eff * toy.mean(S, [(w - w_k) / steps for w_k, steps in done])


def fsvrg(toy, t, w, memory):
    S = toy.of(t)
    full = toy.mean(S, [toy.gradient(w, toy.partition[k].numpy()) for k in S])
    return toy.mean(S, [
        toy.local(k, t, w, lambda g, v, b, k=k: (g - toy.gradient(w, b) + full) / toy.n[k])[0] for k in S
    ])  # fmt: skip


PAPERS = {
    "fedavg": plain,
    "fedsgd": fedsgd,
    "fedprox": fedprox,
    "fedavgm": fedavgm,
    "fedadagrad": adaptive(lambda v, d, beta2: v + d),
    "fedadam": adaptive(lambda v, d, beta2: beta2 * v + (1 - beta2) * d),
    "fedyogi": adaptive(lambda v, d, beta2: v - (1 - beta2) * d * np.sign(v - d)),
    "scaffold": scaffold,
    "fednova": fednova,
    "fsvrg": fsvrg,
}


@pytest.mark.parametrize("m", [3, 2])
@pytest.mark.parametrize("name", list(FLAGS))
def test_equals_its_paper_in_numpy(name, m):
    c = config(model="logistic", num_select_clients=m, **flags(name))
    toy, memory = Toy(c), {}
    w = toy.w
    for t in range(1, c.global_epoch + 1):
        w = PAPERS[name](toy, t, w, memory)
    ours = run(c)[-1].w
    np.testing.assert_allclose(ours["1.weight"].numpy(), w[:, :-1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours["1.bias"].numpy(), w[:, -1], rtol=1e-9, atol=1e-12)
    if name != "fedavg":  # and it is not FedAvg under another name
        fedavg = run(config(model="logistic", num_select_clients=m, **flags("fedavg")))[-1].w
        assert not np.allclose(ours["1.weight"].numpy(), fedavg["1.weight"])
