"""FSVRG: every local step is corrected by the full gradient, so that sampling adds no variance near the optimum.

Konecny, McMahan, Ramage and Richtarik 2016, "Federated Optimization: Distributed Machine Learning for On-Device
Intelligence", arXiv 1610.02527, Algorithm 4:

    w <- w - h_k (S_k (grad f_i(w) - grad f_i(w_t)) + grad f(w_t)),    h_k = h / n_k
    w_{t+1} = w_t + A sum of n_k / n (w_k - w_t)

S_k = diag(phi_j / phi_kj) and A = diag(K / omega_j) make up for features that few clients have. The data sets of
the runner are dense: every client has every feature, phi_kj = phi_j = 1 and omega_j = K, so that both are the
identity, and they do not appear below. fl/optimizers/ has them, for sparse features.

In the paper all clients take part in every round. Here the full gradient is that of the round's clients. As in the
paper, client k is weighted by n_k / n, in the full gradient and in the mean; here n counts the examples of the round's
clients. The full gradient takes one more exchange with the clients in each round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fl.aggregates.mean import WeightedMean
from fl.algorithms.algorithm import Algorithm
from fl.engines.engine import Engine
from fl.group import Group
from fl.state import Correction, RoundStart, Told, along


def tell(now: RoundStart, clients: Sequence[int]) -> Told:
    """The optimizer's rate is h, so the correction divides by n_k: scale 1 / n_k, drift grad f(w_t) / n_k."""
    gradient = now.gradient or {}
    sizes = next(iter(now.w.values())).new_tensor([now.sizes[k] for k in clients])
    anchor = {name: now.w[name].unsqueeze(0) for name in gradient}
    drift = {name: g / along(sizes, g.unsqueeze(0)) for name, g in gradient.items()}
    return Told(Correction(drift=drift, anchor=anchor, scale=1 / sizes))


def full_gradient(engine: Engine, now: RoundStart, mine: Sequence[int], group: Group) -> RoundStart:
    """The round with the gradient at w_t of the mean loss over the examples of its clients, by parameter."""
    sums, n = WeightedMean(now.parameters, len(now.sizes)), 0
    for k, g in engine.gradients(mine, now):
        sums.add({name: tensor.unsqueeze(0) for name, tensor in g.items()}, [1.0])
        n += now.sizes[k]
    n_of_all = float(sums.gather(group, sums.sums.new_tensor([n])))
    # In a real network nobody may have answered. The sums are 0 then, and with a gradient of 0 no client moves.
    return replace(now, gradient=sums.result(n_of_all or 1.0))


fsvrg = Algorithm(tell=tell, prepare=full_gradient, transfers=(2, 2))
