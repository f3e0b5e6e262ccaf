"""What epsilon is worth, against other accountants, and the runs for which none can be stated."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from fl.accountant import epsilon, local_epsilon, spent
from fl.check import resolve
from fl.command_line import parse
from tests.test_privacy import HIDDEN, accounted, noisy


def reference(q, z, T, delta):
    """Epsilon with the Renyi divergence of the sampled Gaussian mechanism by numerical integration over its density."""
    best = math.inf
    for order in (1 + i / 10 for i in range(1, 640)):
        x = torch.linspace(-30 * z, order + 30 * z, 20_001, dtype=torch.float64)
        density = -x.square() / (2 * z * z) - math.log(z * math.sqrt(2 * math.pi))
        ratio = torch.logaddexp(torch.tensor(math.log1p(-q)), math.log(q) + (2 * x - 1) / (2 * z * z))
        divergence = float(torch.logsumexp(density + order * ratio, 0) + math.log(float(x[1] - x[0]))) / (order - 1)
        cost = T * divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
        best = min(best, cost)
    return best


@accounted
@pytest.mark.parametrize(
    ("q", "z", "T", "delta"),
    [(0.01, 1.0, 1000, 1e-5), (0.1, 1.1, 100, 1e-5), (0.02, 0.7, 500, 1e-6), (0.001, 2.0, 5000, 1e-4),
     (0.3, 4.0, 50, 1e-3)],
)  # fmt: skip
def test_epsilon_is_that_of_another_accountant(q, z, T, delta):
    found = spent("poisson", round(1000 * q), 1000, z, T, delta)
    assert found == pytest.approx(reference(q, z, T, delta), rel=2e-3)
    if (q, T) == (0.01, 1000):
        assert found == pytest.approx(2.1014, abs=1e-4)


def closed_form(z, T, delta):
    """Of the plain Gaussian mechanism, over all orders."""
    orders = (1 + i / 100 for i in range(1, 50_000))
    return min(T * a / (2 * z * z) + math.log1p(-1 / a) - math.log(delta * a) / (a - 1) for a in orders)


def theorem_27(q, z, T, delta):
    """Wang, Balle and Kasiviswanathan 2019, for the Gaussian mechanism, whose divergence of infinite order is none."""

    def of(order):
        gaussian = {j: j / (2 * z * z) for j in range(2, order + 1)}
        second = min(4 * math.expm1(gaussian[2]), 2 * math.exp(gaussian[2]))
        terms = [q**2 * math.comb(order, 2) * second]
        terms += [2 * q**j * math.comb(order, j) * math.exp((j - 1) * gaussian[j]) for j in range(3, order + 1)]
        return math.log1p(math.fsum(terms)) / (order - 1)

    return min(T * of(a) + math.log1p(-1 / a) - math.log(delta * a) / (a - 1) for a in range(2, 30))


@accounted
def test_epsilon_of_an_update_with_local_noise_is_that_of_one_gaussian_mechanism():
    """One update against any other: they differ by 2 C, and the noise is X C."""
    c = noisy(local_noise=4.0, delta=1e-5)
    assert local_epsilon(c) == pytest.approx(closed_form(4.0 / 2, 1, 1e-5), rel=0.02)


@accounted
def test_epsilon_without_replacement_is_for_a_sum_that_changes_by_twice_the_norm():
    assert spent("uniform", 50, 50, 6.0, 10, 1e-5) == pytest.approx(closed_form(3.0, 10, 1e-5), rel=1e-2)
    bound = theorem_27(0.01, 2.0, 200, 1e-5)
    assert bound / 2 < spent("uniform", 10, 1000, 4.0, 200, 1e-5) <= bound * (1 + 1e-9)
    c = resolve({"num_clients": 100, "num_select_clients": 10, "clip_norm": 1.0, "noise_multiplier": 4.0})
    assert epsilon(c, 5) < epsilon(c, 6) < epsilon(replace(c, over_select=1.5), 6)
    assert epsilon(replace(c, over_select=20.0), 6) == spent("uniform", 100, 100, 4.0, 6, 1e-5)


@accounted
def test_a_delta_that_lets_a_client_be_published_is_warned_of(capsys):
    for delta, warned in (("0.01", 1), ("0.009", 0)):
        parse(f"--num_clients 100 --clip_norm 1 --local_noise 1 --delta {delta}".split(), "federated", "")
        assert capsys.readouterr().err.count("--delta 0.01: is not less than 1 / K = 0.01") == warned


@accounted
@pytest.mark.parametrize(
    ("flags", "warned"),
    [("--dataset csv --label a --data_dir a.csv", 1), ("--dataset own.py:patterns", 0), ("", 0),
     ("--dataset folder --data_dir a --normalise unit", 0)],
)  # fmt: skip
def test_scales_that_are_learnt_of_all_clients_are_warned_of(flags, warned, own, capsys):
    parse(f"{flags} --num_clients 100 --clip_norm 1 --local_noise 1 --delta 0.001".split(), "federated", "")
    assert capsys.readouterr().err.count("epsilon does not count that") == warned


@accounted
def test_a_target_is_kept_and_said_before_training(command):
    flags = "--clip_norm 0.1 --target_epsilon 3 --sampling poisson --delta 1e-3"
    plan = command("federated", f"{flags} --dry_run")
    assert "at delta 0.001 after 3 rounds, --sampling poisson: for one client more or less" in plan.out
    assert not plan.folder.exists()
    done = command("federated", f"{flags} --insecure_noise", folder="a")
    assert 2.99 < done.records[-1]["epsilon"] <= 3
    assert f"epsilon {done.records[-1]['epsilon']:.4g} " in plan.out
    more = command("federated", "--resume --global_epoch 4", folder="a")
    assert more.code == 2
    assert "--global_epoch 4: with the run's noise multiplier of " in more.err
    assert " would take epsilon to 3." in more.err
    assert ", above --target_epsilon 3\n" in more.err


@accounted
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--noise_multiplier 1", "--noise_multiplier 1.0: needs a --clip_norm"),
        ("--delta 1e-6", "--delta 1e-06: needs a --noise_multiplier"),
        ("--insecure_noise", "--insecure_noise: needs a --noise_multiplier"),
        (f"{HIDDEN} --target_epsilon 1", "--noise_multiplier 1: says what --target_epsilon says; give one"),
        (f"{HIDDEN} --algorithm scaffold", "--noise_multiplier 1: cannot be combined with --algorithm scaffold, which"),
        (f"{HIDDEN} --algorithm fednova", "which weighs each update by the client's examples and steps"),
        (f"{HIDDEN} --algorithm fsvrg", "which has clients send their gradients as well"),
        (f"{HIDDEN} --aggregate median", "--aggregate median, which is no sum"),
        ("--clip_norm 1 --local_noise 1 --algorithm fsvrg", "--local_noise 1: cannot be combined with --algorithm"),
        ("--clip_norm 1 --local_noise 1 --clip_quantile 0.5", "--clip_quantile 0.5: needs clients that say"),
        (f"{HIDDEN} --min_reports 2", "--min_reports 2: a round that is abandoned tells without noise"),
        (f"{HIDDEN} --charging 1,0.5", "--charging, --unmetered and --idle draw clients from those who can"),
        (f"{HIDDEN} --clip_quantile 0.5", "--clip_quantile 0.5: needs more than 10 clients a round"),
        (f"{HIDDEN} --model batch_norm", "--model batch_norm: has buffers (1.num_batches_tracked, 1.running_mean)"),
        ("--clip_norm 1 --target_epsilon 1e-9 --sampling poisson", "--target_epsilon 1e-09: no noise is enough"),
        ("--clip_norm 1 --noise_multiplier 1 --compress sign", "--compress sign: may make an update longer"),
        ("--sampling poisson --over_select 2", "--sampling poisson: needs --over_select 1"),
        ("--sampling poisson --idle 1,0.5", "--sampling poisson: needs clients that can always be called"),
    ],
)
def test_what_cannot_be_accounted_is_refused(flags, words, command, monkeypatch):
    from fl.models import MODELS

    monkeypatch.setitem(MODELS, "batch_norm", "tests.test_golden:bn_net")
    done = command("federated", flags)
    assert done.code == 2
    assert words in done.err
    assert len(done.err.splitlines()) == 1
    assert not done.folder.exists()


@pytest.mark.parametrize("flag", ["--noise_multiplier 1", "--target_epsilon 2", "--local_noise 1"])
def test_without_the_package_noise_is_refused(flag, command, monkeypatch):
    monkeypatch.setattr("fl.accountant.find_spec", lambda name: None)
    done = command("federated", f"--clip_norm 1 {flag}")
    assert done.code == 2
    assert done.err == f"run_federated.py: {flag}: needs a package that is not here: sh requirements.sh dp\n"
    assert command("federated", "--clip_norm 1").code == 0
