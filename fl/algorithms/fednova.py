"""FedNova: clients' changes are normalised by their numbers of steps before they are averaged.

Wang, Liu, Liang, Joshi and Poor 2020, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated
Optimization", arXiv 2007.07481, section 4:

    w_{t+1} = w_t + tau_eff sum of n_k / n (w_k - w_t) / a_k,    tau_eff = sum of n_k / n a_k

where a_k is the sum of the weights that the steps' gradients have in the client's change: the number of steps for
plain SGD, and its closed form for SGD with momentum.
"""

from __future__ import annotations

from collections.abc import Sequence

from fl.algorithms.algorithm import Algorithm, Situation
from fl.client import Report, State


def effective_steps(now: Situation, report: Report) -> float:
    """a_k: the 1-norm of the weights of the client's gradients (section 4.2; rho is the local momentum)."""
    rho = now.config.momentum
    if rho == 0:
        return report.steps
    return (report.steps - rho * (1 - rho**report.steps) / (1 - rho)) / (1 - rho)


def weight(now: Situation, report: Report) -> float:
    return report.n_k / effective_steps(now, report)


def server(now: Situation, mean: State, reports: Sequence[Report], models: State | None) -> State:
    """The mean came with weights n_k / a_k; what is missing is tau_eff and the weights' sum."""
    a = [effective_steps(now, report) for report in reports]
    if min(a) == max(a):
        return mean  # FedAvg
    n = sum(report.n_k for report in reports)
    tau_eff = sum(report.n_k * a_k for report, a_k in zip(reports, a, strict=True)) / n
    factor = tau_eff * sum(weight(now, report) for report in reports) / n
    new = {name: w + factor * (mean[name] - w) for name, w in now.parameters.items()}
    return mean | new


fednova = Algorithm(weight=weight, server=server)
