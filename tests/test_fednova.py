"""FedNova's a_k, its mean, and momenta so near 1 that a closed form would cancel."""

from __future__ import annotations

from fractions import Fraction

import pytest

from fl.algorithms.fednova import effective_steps
from fl.client import load_state
from fl.engines.sequential import Sequential
from tests.rounds import run_rounds
from tests.test_golden import begin, close, config, ragged, task_of

MOMENTA = [0.0, 0.5, 0.9, 0.9999, 1 - 1e-8, 1 - 1e-12, 1 - 2**-53]


def exact(rho, steps):
    """The sum over a client's gradients of what each weighs in its change, without rounding."""
    return sum((steps - age) * Fraction(rho) ** age for age in range(steps))


@pytest.mark.parametrize("rho", MOMENTA)
@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_effective_steps(rho, steps):
    assert effective_steps(rho, steps) == pytest.approx(float(exact(rho, steps)), rel=1e-14)


@pytest.mark.parametrize("rho", MOMENTA)
@pytest.mark.parametrize("E", [1, 40])
def test_a_round_with_momentum(rho, E):
    """Section 4 of the paper, with the models that the clients send."""
    c = config(algorithm="fednova", momentum=rho, local_epoch=E, global_epoch=1, init_lr=1e-3)
    task = task_of(c)
    w = task.w
    updates = list(Sequential(task.model, task.data, ragged(), c).train([0, 1, 2], begin(c, w)))
    load_state(task.model, w)
    ours = list(run_rounds(task, ragged(), Sequential(task.model, task.data, ragged(), c), c))[-1].w
    n_k, a = (7, 4, 1), [float(exact(rho, E * steps)) for steps in (3, 2, 1)]
    tau_eff = sum(n * a_k for n, a_k in zip(n_k, a, strict=True)) / 12
    changes = [
        {name: n / 12 * (u.w[name][0] - w[name]) / a_k for name in w} for n, a_k, u in zip(n_k, a, updates, strict=True)
    ]
    close(ours, {name: w[name] + tau_eff * sum(change[name] for change in changes) for name in w}, 1e-9)
