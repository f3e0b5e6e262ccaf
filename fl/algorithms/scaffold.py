"""SCAFFOLD: control variates, c of the server and c_k of every client, take the clients' drift out of their steps.

Karimireddy, Kale, Mohri, Reddi, Stich and Suresh 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated
Learning", arXiv 1910.06378, Algorithm 1 with option II and global learning rate 1. In the paper all clients have equal
weight, in the mean of the models and in c = 1 / N sum of c_k. Here client k is weighted by n_k, as in the other
algorithms: the mean is over the clients that reported, and c = sum of n_k / n c_k over all K clients, with c_k = 0 for
those that have not trained yet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fl.algorithms.algorithm import Algorithm
from fl.state import Correction, Got, Kept, RoundStart, State, Told, along, zeros_as


def variates(now: RoundStart, clients: Sequence[int]) -> State:
    """c_k of the clients, (S, ...) each; zero before their first round."""
    kept = [now.kept.of(k, "c_k") for k in clients]
    return {
        name: torch.stack([torch.zeros_like(w) if c_k is None else c_k[name].to(w) for c_k in kept])
        for name, w in now.parameters.items()
    }


def tell(now: RoundStart, clients: Sequence[int]) -> Told:
    """c - c_k is added to client k's gradient."""
    c = now.kept.server.get("c")
    if c is None:
        return Told()
    c_k = variates(now, clients)
    return Told(Correction(drift={name: c[name] - c_k[name] for name in c_k}))


def server(now: RoundStart, got: Got) -> tuple[State, Kept]:
    """c_k <- c_k - c + (w_t - w_k) / (steps eta), and c follows.

    With a rate that is zero in the arithmetic of the models, which --lr_decay arrives at in the end, no client moves:
    the quotient, the mean of its gradients, is unknown then, so c_k and c stay.
    """
    eta = now.config.lr(now.t)
    if eta < torch.finfo(next(iter(now.parameters.values())).dtype).tiny:
        return got.mean, got.kept
    c = now.kept.server.get("c") or zeros_as(now.parameters)
    c_k = variates(now, [report.client for report in got.reports])
    like = next(iter(c.values()))
    steps = like.new_tensor([report.steps * eta for report in got.reports])
    shares = like.new_tensor([report.n_k / now.n for report in got.reports])
    new_c: State = {}
    new_c_k: dict[int, State] = {report.client: {} for report in got.reports}
    for name, w in now.parameters.items():
        change = (w - got.models[name]) / along(steps, got.models[name]) - c[name]
        for report, after in zip(got.reports, (c_k[name] + change).cpu(), strict=True):
            new_c_k[report.client][name] = after.clone()
        new_c[name] = c[name] + (change * along(shares, change)).sum(0)
    kept = got.kept.with_clients({k: {"c_k": variate} for k, variate in new_c_k.items()})
    return got.mean, kept.with_server(c=new_c)


scaffold = Algorithm(tell=tell, server=server, keep_models=True, transfers=(2, 2))
