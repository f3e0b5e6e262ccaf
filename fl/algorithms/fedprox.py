"""FedProx: a client's loss has a proximal term, mu / 2 |w - w_t|^2, that keeps it near the model it was sent.

Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith 2020, "Federated Optimization in Heterogeneous Networks",
arXiv 1812.06127, Algorithm 2, with E epochs of the local optimizer for the inexact solver. |.| is the Euclidean norm,
over all parameters. The paper draws client k with probability n_k / n and takes the plain mean of the models; here, as
in the other algorithms, clients are drawn uniformly, and the model of client k is weighted by n_k in the mean.
"""

from __future__ import annotations

from collections.abc import Sequence

from fl.algorithms.algorithm import Algorithm
from fl.state import Correction, RoundStart, Told


def tell(now: RoundStart, clients: Sequence[int]) -> Told:
    """The gradient of the proximal term, mu (w - w_t)."""
    mu = now.config.proximal_mu
    if mu == 0:
        return Told()
    return Told(Correction(pull=mu, centre={name: w.unsqueeze(0) for name, w in now.parameters.items()}))


fedprox = Algorithm(tell=tell)
