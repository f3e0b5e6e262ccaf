"""FedOpt: the mean change of the clients' models, Delta_t, is a gradient for an optimizer on the server.

FedAdagrad, FedAdam and FedYogi: Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar and McMahan 2021, "Adaptive
Federated Optimization", arXiv 2003.00295, Algorithm 2: no bias correction, and v starts at tau^2. Delta_t is the plain
mean there; here, as under every algorithm, client k weighs n_k. The paper runs FedAdagrad without momentum, beta_1 = 0,
and the others with 0.9; those are the defaults of --server_momentum.
FedAvgM: Hsu, Qi and Brown 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", arXiv 1909.06335, where client k weighs n_k, too. With rate 1 and no momentum it is FedAvg.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fl.algorithms.algorithm import Algorithm
from fl.state import Report, RoundStart, State, zeros


def averaged_with_momentum(now: RoundStart, mean: State, reports: Sequence[Report], models: State | None) -> State:
    """v <- beta v + Delta, w <- w + eta v, written so that beta = 0 and eta = 1 give the mean to the bit."""
    c = now.config
    assert c.server_lr is not None
    v = now.kept.server.setdefault("velocity", zeros(now.parameters))
    new = dict(mean)
    for name, w in now.parameters.items():
        target = mean[name] + c.server_momentum * v[name] if c.server_momentum else mean[name]
        v[name] = target - w
        new[name] = torch.lerp(w, target, c.server_lr)
    return new


def adaptive(second_moment: Callable[[Tensor, Tensor, float], Tensor]) -> Algorithm:
    """w <- w + eta m / (sqrt(v) + tau), with m <- beta_1 m + (1 - beta_1) Delta and v <- second_moment(v, Delta^2)."""

    def server(now: RoundStart, mean: State, reports: Sequence[Report], models: State | None) -> State:
        c = now.config
        # A tau that is zero in the arithmetic of the model would divide by zero where nothing changes.
        tau = max(c.server_tau, torch.finfo(next(iter(now.parameters.values())).dtype).tiny)
        assert c.server_lr is not None
        m = now.kept.server.setdefault("momentum", zeros(now.parameters))
        v = now.kept.server.setdefault("second", {name: z + tau**2 for name, z in zeros(now.parameters).items()})
        new = dict(mean)
        for name, w in now.parameters.items():
            delta = mean[name] - w
            m[name] = c.server_momentum * m[name] + (1 - c.server_momentum) * delta
            v[name] = second_moment(v[name], delta.square(), c.server_beta2)
            new[name] = w + c.server_lr * m[name] / (v[name].sqrt() + tau)
        return new

    return Algorithm(server=server)


fedavgm = Algorithm(server=averaged_with_momentum)
fedadagrad = adaptive(lambda v, squared, beta2: v + squared)
fedadam = adaptive(lambda v, squared, beta2: beta2 * v + (1 - beta2) * squared)
fedyogi = adaptive(lambda v, squared, beta2: v - (1 - beta2) * squared * torch.sign(v - squared))
