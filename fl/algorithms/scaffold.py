"""SCAFFOLD: control variates, c of the server and c_k of every client, take the clients' drift out of their steps.

Karimireddy, Kale, Mohri, Reddi, Stich and Suresh 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated
Learning", arXiv 1910.06378, Algorithm 1 with option II and global rate 1. The paper's clients count alike, in the
mean of the models and in c = 1 / N sum of c_k; here, as everywhere, client k weighs n_k: the mean is over the clients
that reported, and c = sum of n_k / n c_k over all K, with c_k = 0 for those that have not trained yet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fl.algorithms.algorithm import Algorithm
from fl.state import Correction, Report, RoundStart, State, along, zeros


def variates(now: RoundStart, clients: Sequence[int]) -> State:
    """c_k of the clients, (S, ...) each; zero before their first round."""
    kept = {k: now.kept.of(k, "variate") for k in clients}
    return {
        name: torch.stack([kept[k][name].to(w) if kept[k] else torch.zeros_like(w) for k in clients])
        for name, w in now.parameters.items()
    }


def correction(now: RoundStart, clients: Sequence[int]) -> Correction | None:
    """c - c_k is added to client k's gradient."""
    if "c" not in now.kept.server:
        return None
    c, c_k = now.kept.server["c"], variates(now, clients)
    return Correction(drift={name: c[name] - c_k[name] for name in c_k})


def server(now: RoundStart, mean: State, reports: Sequence[Report], models: State | None) -> State:
    """c_k <- c_k - c + (w_t - w_k) / (steps eta), and c follows.

    With a rate that is zero in the arithmetic of the models, which --lr_decay arrives at in the end, no client moves:
    the quotient, the mean of its gradients, is unknown then, so c_k and c stay.
    """
    assert models is not None
    if now.config.lr(now.t) < torch.finfo(next(iter(now.parameters.values())).dtype).tiny:
        return mean
    c = now.kept.server.setdefault("c", zeros(now.parameters))
    before = variates(now, [report.client for report in reports])
    like = next(iter(c.values()))
    steps = like.new_tensor([report.steps * now.config.lr(now.t) for report in reports])
    shares = like.new_tensor([report.n_k / now.n for report in reports])
    for report in reports:
        now.kept.clients[report.client] = now.kept.clients.get(report.client, {}) | {"variate": {}}
    for name, w in now.parameters.items():
        change = (w - models[name]) / along(steps, models[name]) - c[name]
        for report, after in zip(reports, (before[name] + change).cpu(), strict=True):
            now.kept.clients[report.client]["variate"][name] = after.clone()
        c[name] = c[name] + (change * along(shares, change)).sum(0)
    return mean


scaffold = Algorithm(correction=correction, server=server, models=True, transfers=(2, 2))
