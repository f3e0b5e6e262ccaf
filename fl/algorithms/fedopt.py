"""FedOpt: the mean change of the clients' models, Delta_t, is a gradient for an optimizer on the server.

FedAdagrad, FedAdam and FedYogi: Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar and McMahan 2021, "Adaptive
Federated Optimization", arXiv 2003.00295, Algorithm 2: no bias correction, and v starts at tau^2. There Delta_t is the
plain mean; here, as in the other algorithms, client k is weighted by n_k. The paper runs FedAdagrad without momentum
(beta_1 = 0), and the others with 0.9; those are the defaults of --server_momentum.
FedAvgM: Hsu, Qi and Brown 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", arXiv 1909.06335, where client k is weighted by n_k, too. With a server learning rate of 1 and no
momentum it is FedAvg.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fl.algorithms.algorithm import Algorithm
from fl.errors import FlagError
from fl.state import Got, Kept, RoundStart, State, zeros_as


def averaged_with_momentum(now: RoundStart, got: Got) -> tuple[State, Kept]:
    """v <- beta v + Delta, w <- w + eta v, computed so that beta = 0 and eta = 1 give exactly the mean, bit for bit."""
    c, eta = now.config, server_rate(now)
    v = now.kept.server.get("velocity") or zeros_as(now.parameters)
    new, new_v = dict(got.mean), dict(v)
    for name, w in now.parameters.items():
        target = got.mean[name] + c.server_momentum * v[name] if c.server_momentum else got.mean[name]
        new_v[name] = target - w
        new[name] = torch.lerp(w, target, eta)
    return new, got.kept.with_server(velocity=new_v)


def adaptive(second_moment: Callable[[Tensor, Tensor, float], Tensor]) -> Algorithm:
    """w <- w + eta m / (sqrt(v) + tau), with m <- beta_1 m + (1 - beta_1) Delta and v <- second_moment(v, Delta^2)."""

    def server(now: RoundStart, got: Got) -> tuple[State, Kept]:
        c, eta = now.config, server_rate(now)
        # A tau that is zero in the arithmetic of the model would divide by zero where nothing changes.
        tau = max(c.server_tau, torch.finfo(next(iter(now.parameters.values())).dtype).tiny)
        kept = now.kept.server
        m = kept.get("momentum") or zeros_as(now.parameters)
        v = kept.get("second") or {name: z + tau**2 for name, z in zeros_as(now.parameters).items()}
        new, new_m, new_v = dict(got.mean), dict(m), dict(v)
        for name, w in now.parameters.items():
            delta = got.mean[name] - w
            new_m[name] = c.server_momentum * m[name] + (1 - c.server_momentum) * delta
            new_v[name] = second_moment(v[name], delta.square(), c.server_beta2)
            new[name] = w + eta * new_m[name] / (new_v[name].sqrt() + tau)
        return new, got.kept.with_server(momentum=new_m, second=new_v)

    return Algorithm(server=server)


def server_rate(now: RoundStart) -> float:
    """eta of the server, which is --server_lr: the entry of each of these algorithms has a default for it."""
    if (eta := now.config.server_lr) is None:
        raise FlagError(f"--server_lr: --algorithm {now.config.algorithm} has no default for it; give it")
    return eta


fedavgm = Algorithm(server=averaged_with_momentum)
fedadagrad = adaptive(lambda v, squared, beta2: v + squared)
fedadam = adaptive(lambda v, squared, beta2: beta2 * v + (1 - beta2) * squared)
fedyogi = adaptive(lambda v, squared, beta2: v - (1 - beta2) * squared * torch.sign(v - squared))
