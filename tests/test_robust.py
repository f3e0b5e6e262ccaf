"""Robust aggregation: what each rule computes, what it withstands, and updates that are turned away."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from fl.aggregate import ABSURD_WEIGHT, NOT_FINITE, WRONG_SHAPE
from fl.attack import attackers, poisoned
from fl.config import Config
from fl.engines.sequential import Sequential
from fl.engines.stacked import Stacked
from fl.robust import RULES
from fl.rounds import federated_averaging
from fl.workers import start
from tests.test_golden import close, config, ragged, task_of

GENERATOR = torch.Generator().manual_seed(3)
MODELS = torch.randn(7, 40, generator=GENERATOR, dtype=torch.float64)
WEIGHTS = torch.tensor([3.0, 1, 4, 1, 5, 9, 2], dtype=torch.float64)


def apply(name, models=MODELS, weights=WEIGHTS, **flags):
    return RULES[name](models, weights, Config(**flags))


def test_median():
    np.testing.assert_allclose(apply("median"), np.median(MODELS.numpy(), 0))
    np.testing.assert_allclose(apply("median", MODELS[:6]), np.median(MODELS[:6].numpy(), 0))


def test_trimmed_mean():
    expected = []
    for column in MODELS.T.tolist():
        kept = sorted(zip(column, WEIGHTS.tolist(), strict=True))[2:5]  # 0.3 of 7 is 2 at either end
        expected.append(sum(v * n for v, n in kept) / sum(n for _, n in kept))
    np.testing.assert_allclose(apply("trimmed_mean", trim=0.3), expected)


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


def test_geometric_median_has_the_least_sum_of_distances():
    point = apply("geometric_median")

    def cost(p):
        return float((WEIGHTS * (MODELS - p).norm(dim=1)).sum())

    for _ in range(50):
        step = torch.randn(40, generator=GENERATOR, dtype=torch.float64)
        assert cost(point) <= cost(point + 1e-3 * step)


@pytest.mark.parametrize("name", list(RULES))
def test_equal_models_are_their_aggregate(name):
    models = MODELS[:1].expand(7, -1)
    torch.testing.assert_close(apply(name, models), MODELS[0])


@pytest.mark.parametrize("name", list(RULES))
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
    return list(federated_averaging(task, ragged(), engine(task.model, task.data, ragged(), c), c))


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
def test_other_updates_that_are_turned_away(engine, reason, rule):
    c = config(aggregate=rule, global_epoch=1, **FITTING.get(rule, {}))
    bad, without = run(c, engine)[-1], run(c, Spoilt)[-1]
    assert bad.record["rejected"] == {1: reason}
    close(bad.w, without.w)


def spoilt_rounds(c, group):
    task = task_of(c)
    return list(federated_averaging(task, ragged(), Spoilt(task.model, task.data, ragged(), c), c, group))


def test_workers_agree_on_what_is_turned_away():
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
def test_an_update_that_is_not_finite_is_turned_away_under_every_rule(rule):
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
    updates = list(Sequential(task.model, task.data, ragged(), c).train([0, 2], 1, w0))
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
    honest = list(Sequential(task.model, task.data, ragged(), c).train([0, 1, 2], 1, w0))
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
    before, after = task.data.train.labels, poisoned(task, ragged(), c).data.train.labels
    for k in range(3):
        own = ragged()[k]
        assert torch.equal(after[own], 2 - before[own] if k == bad else before[own])


@pytest.mark.parametrize("share", [0.0, 0.2, 0.29, 1.0])
def test_how_many_attack(share):
    c = config(num_clients=100, attack="scaled", attackers=share)
    assert len(attackers(c)) == round(100 * share)
    assert attackers(c) == attackers(config(num_clients=100, attack="gaussian", attackers=share))
