"""Robust aggregation: what each rule computes, which attacks it withstands, and which updates are rejected."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from fl.aggregates import AGGREGATES
from fl.aggregates.total import ABSURD_WEIGHT, NOT_FINITE, WRONG_SHAPE
from fl.config import Config
from fl.engines.sequential import Sequential
from fl.engines.stacked import Stacked
from fl.names import named
from fl.processes.workers import start
from fl.transforms.attack import attackers, poisoned
from tests.rounds import run_rounds
from tests.test_golden import begin, close, config, ragged, task_of

RULES = [name for name in AGGREGATES if name != "mean"]
GENERATOR = torch.Generator().manual_seed(3)
MODELS = torch.randn(7, 40, generator=GENERATOR, dtype=torch.float64)
WEIGHTS = torch.tensor([3.0, 1, 4, 1, 5, 9, 2], dtype=torch.float64)


def apply(name, models=MODELS, weights=WEIGHTS, **flags):
    return named("aggregate", name)(models, weights, Config(**flags))


def test_median():
    np.testing.assert_allclose(apply("median"), np.median(MODELS.numpy(), 0))
    np.testing.assert_allclose(apply("median", MODELS[:6]), np.median(MODELS[:6].numpy(), 0))


def test_trimmed_mean():
    expected = []
    for column in MODELS.T.tolist():
        kept = sorted(zip(column, WEIGHTS.tolist(), strict=True))[2:5]  # 0.3 of 7 is 2 at either end
        expected.append(sum(v * n for v, n in kept) / sum(n for _, n in kept))
    np.testing.assert_allclose(apply("trimmed_mean", trim=0.3), expected)


def test_of_equal_values_the_same_are_trimmed_in_any_order():
    """A value that several clients share stands at the end of what is left out: whose weight is left must not depend
    on who came first."""
    models = torch.tensor([[0.0, 0, 5], [0, 1, 5], [0, 1, 5], [2, 1, 1], [3, 1, 2], [3, 4, 3]], dtype=torch.float64)
    weights = torch.tensor([1.0, 10, 100, 1000, 10_000, 100_000], dtype=torch.float64)
    results = {
        tuple(apply("trimmed_mean", models[[*order]], weights[[*order]], trim=0.34).tolist())
        for order in itertools.permutations(range(6))
    }
    # The two lightest of three zeros are left out, and the two heaviest of three fives.
    assert results == {(2000 / 1100, 1.0, 300_005 / 100_001)}


@pytest.mark.parametrize("trim", [0.0, 1e-12, 0.25, 0.4999999999, math.nextafter(0.5, 0)])
@pytest.mark.parametrize("m", range(1, 8))
def test_something_is_left_whatever_is_trimmed(m, trim):
    result = apply("trimmed_mean", MODELS[:m], WEIGHTS[:m], trim=trim)
    assert (result >= MODELS[:m].min(0).values - 1e-12).all()
    assert (result <= MODELS[:m].max(0).values + 1e-12).all()
    if trim > 0.49 and m % 2:
        torch.testing.assert_close(result, MODELS[:m].median(0).values)
    if trim < 0.01:
        torch.testing.assert_close(result, (MODELS[:m] * WEIGHTS[:m, None]).sum(0) / WEIGHTS[:m].sum())


def scores(f):
    m = len(MODELS)
    return [
        sum(sorted(float((MODELS[i] - MODELS[j]).square().sum()) for j in range(m) if j != i)[: m - f - 2])
        for i in range(m)
    ]


@pytest.mark.parametrize("f", [0, 1, 2, 4])
def test_krum_and_multi_krum(f):
    order = sorted(range(7), key=scores(f).__getitem__)
    assert torch.equal(apply("krum", byzantine=f), MODELS[order[0]])
    best = order[: 7 - f]
    expected = (MODELS[best] * WEIGHTS[best, None]).sum(0) / WEIGHTS[best].sum()
    np.testing.assert_allclose(apply("multi_krum", byzantine=f), expected)


@pytest.mark.parametrize(
    ("flags", "needed"), [("krum --byzantine 1", 5), ("multi_krum --byzantine 1", 5), ("trimmed_mean --trim 0.3", 4)]
)
def test_a_rule_gets_the_reports_that_it_needs(flags, needed, command):
    flags = f"--num_clients 6 --num_select_clients 6 --dropout_rate 0.2 --global_epoch 1 --aggregate {flags}"
    done = command("federated", flags)
    assert done.code == 2
    rule = f"--aggregate {flags.split()[-3]} needs {needed} to withstand anything"
    assert f"--dropout_rate 0.2: with it fewer than --num_select_clients may report, and {rule}" in done.err
    assert f"give --min_reports {needed}, so that" in done.err
    assert command("federated", f"{flags} --min_reports {needed}").code == 0


def test_a_run_that_began_without_those_reports_goes_on(command, monkeypatch):
    """An earlier version let it begin."""
    flags = "--num_clients 6 --num_select_clients 6 --aggregate krum --byzantine 1 --dropout_rate 0.2 --global_epoch 1"
    with monkeypatch.context() as earlier:
        earlier.setattr("fl.check.THINNING", ())
        assert command("federated", flags, folder="run").code == 0
    assert command("federated", "--resume --global_epoch 2", folder="run").code == 0


def test_geometric_median_has_the_least_sum_of_distances():
    point = apply("geometric_median")

    def cost(p):
        return float((WEIGHTS * (MODELS - p).norm(dim=1)).sum())

    for _ in range(50):
        step = torch.randn(40, generator=GENERATOR, dtype=torch.float64)
        assert cost(point) <= cost(point + 1e-3 * step)


def slope(point, models, weights):
    """The length of the gradient of the smoothed weighted sum of distances; 1 far from all models."""
    away = point - models
    return float((weights / weights.sum() @ (away / away.norm(dim=1, keepdim=True).clamp_min(1e-6))).norm())


@pytest.mark.parametrize("seed", range(12))
def test_geometric_median_goes_on_until_it_has_converged(seed, capsys):
    """Of few clients with uneven weights, where steps become short long before the end is near."""
    generator = torch.Generator().manual_seed(seed)
    m = 3 + seed % 3
    models = torch.randn(m, 40, generator=generator, dtype=torch.float64)
    weights = torch.rand(m, generator=generator, dtype=torch.float64) ** 2
    weights[0] = 0.97 * weights[1:].sum()
    models[1:] = models[1] + 0.3 * models[1:]
    assert slope(apply("geometric_median", models, weights), models, weights) < 1e-6
    assert not capsys.readouterr().err


def test_geometric_median_far_from_attackers_is_as_exact():
    """In whatever order they come: the first model's size must not become that of everyone's rounding."""
    models = MODELS.clone()
    models[[0, 4]] *= 1e12
    for order in (range(7), range(6, -1, -1)):
        point = apply("geometric_median", models[[*order]], torch.ones(7, dtype=torch.float64))
        assert slope(point, models, torch.ones(7, dtype=torch.float64)) < 1e-6


def test_geometric_median_says_when_it_has_not_converged(capsys, monkeypatch):
    monkeypatch.setattr("fl.aggregates.robust.MOST_STEPS", 50)
    apply("geometric_median", MODELS[:2], torch.tensor([1.0001, 1.0], dtype=torch.float64))
    assert capsys.readouterr().err == "warning: --aggregate geometric_median: has not converged in 50 steps\n"


@pytest.mark.parametrize("name", RULES)
def test_equal_models_are_their_aggregate(name):
    models = MODELS[:1].expand(7, -1)
    torch.testing.assert_close(apply(name, models), MODELS[0])


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("bad", list(itertools.combinations(range(7), 2))[::5])
def test_two_bad_of_seven_cannot_carry_a_rule_away(name, bad):
    models = MODELS.clone()
    models[list(bad)] = 1e6
    result = apply(name, models, torch.ones(7, dtype=torch.float64), byzantine=2, trim=0.3)
    assert result.abs().max() < 10
    assert models.mean(0).abs().max() > 1e5


FITTING = {"krum": {"byzantine": 0}, "multi_krum": {"byzantine": 0}, "trimmed_mean": {"trim": 0.34}}  # three clients


def run(c, engine=Sequential, task=None):
    task = task or task_of(c)
    return list(run_rounds(task, ragged(), engine(task.model, task.data, ragged(), c), c))


class Spoilt(Sequential):
    """Client 1 sends infinities."""

    bad = (1,)

    def client_update(self, k, *rest):
        update = super().client_update(k, *rest)
        if k in self.bad:
            update.w["1.weight"][0, 0, 0] = float("inf")
        return update


class Misshapen(Sequential):
    def client_update(self, k, *rest):
        update = super().client_update(k, *rest)
        return update if k != 1 else replace_in(update, "1.weight", lambda tensor: tensor[:, :, :-1])


class Boaster(Sequential):
    """Client 1 claims more examples than there are, or none."""

    n_k = 10**6

    def client_update(self, k, *rest):
        update = super().client_update(k, *rest)
        return update if k != 1 else update._replace(reports=[update.reports[0]._replace(n_k=self.n_k)])


class Nothing(Boaster):
    n_k = 0


def replace_in(update, name, change):
    return update._replace(w=update.w | {name: change(update.w[name])})


@pytest.mark.parametrize("rule", ["mean", *RULES])
@pytest.mark.parametrize(
    ("engine", "reason"), [(Misshapen, WRONG_SHAPE), (Boaster, ABSURD_WEIGHT), (Nothing, ABSURD_WEIGHT)]
)
def test_other_updates_that_are_rejected(engine, reason, rule):
    c = config(aggregate=rule, global_epoch=1, **FITTING.get(rule, {}))
    bad, without = run(c, engine)[-1], run(c, Spoilt)[-1]
    assert bad.record["rejected"] == {1: reason}
    close(bad.w, without.w)


def spoilt_rounds(c, group):
    task = task_of(c)
    return list(run_rounds(task, ragged(), Spoilt(task.model, task.data, ragged(), c), c, group))


def test_workers_agree_on_what_is_rejected():
    c = config(engine="distributed", global_epoch=2)
    with start(c, 2, spoilt_rounds) as group:
        together = spoilt_rounds(c, group)
    for one, other in zip(run(c, Spoilt), together, strict=True):
        close(one.w, other.w)
        for key in ("clients", "examples", "rejected"):
            assert one.record.get(key) == other.record.get(key)


class AllSpoilt(Spoilt):
    bad = (0, 1, 2)


@pytest.mark.parametrize("rule", ["mean", *RULES])
def test_an_update_that_is_not_finite_is_rejected_under_every_rule(rule):
    c = config(aggregate=rule, global_epoch=2, **FITTING.get(rule, {}))
    for spoilt in run(c, Spoilt)[1:]:
        assert spoilt.record["rejected"] == {1: NOT_FINITE}
        assert spoilt.record["clients"] == [0, 2]
        assert spoilt.record["examples"] == 2 * (7 + 1)
        assert all(tensor.isfinite().all() for tensor in spoilt.w.values())
    assert "rejected" not in run(c)[1].record


def test_the_mean_of_the_rest_is_theirs():
    c = config(global_epoch=1)
    task = task_of(c)
    w0 = task.w
    updates = list(Sequential(task.model, task.data, ragged(), c).train([0, 2], begin(c, w0)))
    expected = {name: (7 * updates[0].w[name][0] + updates[1].w[name][0]) / 8 for name in w0}
    close(run(c, Spoilt)[-1].w, expected)


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_a_round_with_none_left_keeps_the_model(rule):
    c = config(aggregate=rule, attack="sign_flip", attackers=1.0, global_epoch=2)
    rounds = run(c, AllSpoilt)
    assert rounds[-1].record["clients"] == []
    assert rounds[-1].record["train_loss"] is None
    assert all(torch.equal(rounds[-1].w[name], rounds[0].w[name]) for name in rounds[0].w)


def test_attacks():
    c = config(attack="sign_flip", attack_scale=4.0, attackers=1 / 3, global_epoch=1)
    (bad,) = attackers(c)
    task = task_of(c)
    w0 = task.w
    honest = list(Sequential(task.model, task.data, ragged(), c).train([0, 1, 2], begin(c, w0)))
    for kind, factor in (("sign_flip", -4.0), ("scaled", 4.0)):
        got = run(config(attack=kind, attack_scale=4.0, attackers=1 / 3, global_epoch=1))[-1].w
        for name, w in w0.items():
            sent = [w + (factor if k == bad else 1.0) * (u.w[name][0] - w) for k, u in enumerate(honest)]
            expected = sum(n * s for n, s in zip((7, 4, 1), sent, strict=True)) / 12
            torch.testing.assert_close(got[name], expected)
    noisy = config(attack="gaussian", attack_scale=2.0, attackers=1.0, global_epoch=1, num_select_clients=1)
    away = torch.cat([(run(noisy)[-1].w[name] - w0[name]).flatten() for name in w0])
    assert away.std().item() == pytest.approx(2.0, rel=0.02)
    for engine in (Sequential, Stacked):
        close(run(noisy, engine)[-1].w, run(noisy)[-1].w)


def test_label_flip_changes_the_attackers_labels_only():
    c = config(attack="label_flip", attackers=1 / 3)
    task = task_of(c)
    (bad,) = attackers(c)
    before, after = task.data.train.targets, poisoned(task.data, ragged(), c).train.targets
    for k in range(3):
        own = ragged()[k]
        assert torch.equal(after[own], 2 - before[own] if k == bad else before[own])


@pytest.mark.parametrize("share", [0.0, 0.2, 0.29, 1.0])
def test_how_many_attack(share):
    c = config(num_clients=100, attack="scaled", attackers=share)
    assert len(attackers(c)) == round(100 * share)
    assert attackers(c) == attackers(config(num_clients=100, attack="gaussian", attackers=share))
