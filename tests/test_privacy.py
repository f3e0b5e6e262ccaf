"""Clipping and noise: what each client can change at most, and what hides it. tests/test_epsilon.py has its worth.

If a test states no rate of false alarms, its noise comes from the seed, and its result is always the same.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from data.partition import iid
from fl.accountant import noise_on_updates
from fl.check import resolve
from fl.cohort import cohort
from fl.engines import make_engine
from fl.experiment import federated
from fl.group import Group
from fl.noise import key_of, normals
from fl.parts import algorithm_of
from fl.state import Got, Kept, Report, Update
from fl.transforms.clip import RATE, follow_the_quantile, lengths, norm_at, shorten
from fl.transforms.noise import add_own_noise, hide
from tests.conftest import OWN
from tests.test_engines import both
from tests.test_golden import begin, config, ragged

has_package = find_spec("dp_accounting") is not None


accounted = pytest.mark.skipif(not has_package, reason="needs dp-accounting: sh requirements.sh dp")


@pytest.fixture(autouse=True)
def _no_epsilon(monkeypatch):
    """What is not about epsilon is tested without the package, too."""
    if not has_package:
        monkeypatch.setattr("fl.transforms.noise.epsilon", lambda config, rounds: 0.0)


def noisy(base=None, **flags):
    """Flags with noise from the seed. They are not checked, so that the package may be missing."""
    return replace(base or config(), **({"clip_norm": 0.05, "insecure_noise": True} | flags))


def updates(c, engine):
    """The updates of round 1: its beginning, their tensors as the engine made them, and what is sent."""
    x = federated(c)
    now = x.round_start(1, x.w, Kept(), x.cohort(1))
    for update in make_engine(engine, x).train(list(now.sizes), now):
        before = {name: tensor.clone() for name, tensor in update.w.items()}
        yield now, before, shorten(now, update)


@pytest.mark.parametrize("engine", ["sequential", "stacked"])
@pytest.mark.parametrize("model", ["2nn", "gn_cnn"])
def test_no_client_changes_the_model_by_more_than_the_norm(engine, model):
    """Up to the rounding of w + (w_k - w) in float32. A client below C sends its trained model, bit for bit."""
    c = config(model=model, num_clients=6, num_select_clients=6)
    every = torch.cat([lengths(now, sent._replace(w=before)) for now, before, sent in updates(c, engine)])
    C = float(every.sort().values[2])
    cut = 0
    for now, before, sent in updates(replace(c, clip_norm=C * (1 + 1e-9)), engine):
        was, norms = lengths(now, sent._replace(w=before)), lengths(now, sent)
        assert (norms <= C * (1 + 1e-5)).all()
        for i, report in enumerate(sent.reports):
            assert report.clipped == (was[i] > norm_at(now))
            cut += int(report.clipped)
            assert all(torch.equal(before[k][i], sent.w[k][i]) for k in before) == (not report.clipped)
            if report.clipped:
                assert float(norms[i]) == pytest.approx(C, rel=1e-5)
    assert cut == 3


def test_with_a_norm_that_nobody_reaches_and_no_noise_it_is_fedavg(command):
    plain, clipped = command("federated"), command("federated", "--clip_norm 1e30")
    assert clipped.sha256 == plain.sha256
    assert [r["clipped"] for r in clipped.records[1:]] == [0, 0, 0]
    assert {r.get("clip_norm") for r in clipped.records} == {None, 1e30}
    assert not any("epsilon" in r for r in clipped.records)


def test_with_noise_clients_have_equal_weight_and_the_sum_is_divided_by_the_flag():
    """w + (sum of w_k - w) / m, with noise too small to see, where m = 3 were called and two reported."""
    c = noisy(clip_norm=1e3, noise_multiplier=1e-18)
    assert algorithm_of(c).weights(None, [1, 2]) == [1, 1]
    w = {"a": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    models = torch.tensor([[2.0, 2.0], [1.0, 5.0]], dtype=torch.float64)
    reports = [Report(k, 10**k, 0.0, 1, 1) for k in (0, 2)]
    got = hide(begin(c, w), Got({"a": models.mean(0)}, reports, {}, Kept()))
    assert got.mean["a"].tolist() == pytest.approx([1 + 1 / 3, 2 + 3 / 3])


@pytest.mark.parametrize(("quantile", "reports"), [(None, 3), (None, 0), (0.5, 3)])
def test_the_noise_on_the_sum_has_the_deviation_that_is_accounted(quantile, reports):
    """By chi-square over 200,000 numbers from the secure generator: a false alarm in a million runs."""
    P, z, C, m = 200_000, 1.3, 0.7, 20
    base = config(num_clients=m, num_select_clients=m)
    c = noisy(base, clip_norm=C, noise_multiplier=z, clip_quantile=quantile)
    if quantile:
        assert noise_on_updates(c) ** -2 + (2 * m / 20) ** -2 == pytest.approx(z**-2)
    w = {"a": torch.zeros(P // 2, dtype=torch.float64), "b": torch.zeros(P // 4, 2, dtype=torch.float64)}
    now = replace(begin(c, w), noise_key=os.urandom(32))
    got = hide(now, Got(w, [Report(k, 1, 0.0, 1, 1) for k in range(reports)], {}, Kept()))
    total = torch.cat([tensor.flatten() for tensor in got.mean.values()]) * m / (noise_on_updates(c) * C)
    assert abs(float(total.square().sum()) - P) < 4.9 * math.sqrt(2 * P)
    assert abs(float(total.sum())) < 4.9 * math.sqrt(P)


def test_the_noise_of_a_client_has_the_deviation_of_the_flag():
    P, C, X = 200_000, 0.7, 1.3
    c = noisy(clip_norm=C, local_noise=X)
    now = replace(begin(c, {"a": torch.zeros(P, dtype=torch.float64)}), noise_key=os.urandom(32))
    sent = add_own_noise(now, Update([Report(k, 1, 0.0, 1, 1) for k in (0, 2)], {"a": torch.zeros(2, P).double()}))
    for drawn in sent.w["a"] / (C * X):
        assert abs(float(drawn.square().sum()) - P) < 4.9 * math.sqrt(2 * P)


def test_the_noise_on_the_count_has_the_deviation_that_is_accounted():
    """From C and the next round's C the noisy share follows, and from that its noise, whose deviation is m / 20."""
    m, gamma = 20, 0.5
    c = noisy(config(num_clients=m, num_select_clients=m), clip_quantile=gamma, noise_multiplier=0.1)
    reports = [Report(k, 1, 0.0, 1, 1, float(k < 5)) for k in range(m)]
    noise = []
    for _ in range(2000):
        now = replace(begin(c, {"a": torch.zeros(1)}), noise_key=os.urandom(32))
        C = norm_at(replace(now, kept=follow_the_quantile(now, Got(now.w, reports, {}, now.kept)).kept))
        noise.append((gamma - math.log(C / 0.05) / RATE - 0.75) * m)
    deviation = math.sqrt(math.fsum(one**2 for one in noise) / len(noise))
    assert deviation == pytest.approx(m / 20, rel=4.9 / math.sqrt(2 * len(noise)))
    assert abs(math.fsum(noise) / len(noise)) < 4.9 * m / 20 / math.sqrt(len(noise))


FROZEN = """
def frozen(shape, classes):
    model = Net(shape, classes)
    model[1].requires_grad_(False)
    return model
"""


@accounted
def test_frozen_parameters_have_no_noise(own, command):
    own.write_text(OWN + FROZEN)
    flags = "--model own.py:frozen --algorithm fedadam --clip_norm 0.5 --insecure_noise --global_epoch 2"
    first = torch.load(command("federated", f"{flags} --noise_multiplier 1 --global_epoch 0").folder / "model.pt")
    for noise in ("--noise_multiplier 1", "--local_noise 1", "--noise_multiplier 1 --workers 2"):
        done = command("federated", f"{flags} {noise}")
        assert done.code == 0, done.err
        last = torch.load(done.folder / "model.pt")
        assert [torch.equal(first[name], last[name]) for name in first] == [True, True, False, False, False, False]


def test_the_noise_is_normal_and_no_two_streams_are_alike():
    n = 100_000
    x = normals(b"key", "sum", 1, n=n).sort().values
    distance = (torch.special.ndtr(x) - (torch.arange(n) + 0.5) / n).abs().max()
    assert float(distance) < 2.6 / math.sqrt(n)  # Kolmogorov: exceeded once in 400,000
    streams = [normals(*args, n=n) for args in ((b"key", "sum", 1), (b"key", "sum", 2), (b"key", "local", 1, 2),
                                                (b"yek", "sum", 1), (b"key", "local", 12))]  # fmt: skip
    correlations = torch.corrcoef(torch.stack(streams)) - torch.eye(len(streams))
    assert float(correlations.abs().max()) < 5 / math.sqrt(n)
    assert torch.equal(streams[0], normals(b"key", "sum", 1, n=n))
    assert normals(b"key", "sum", 1, n=3).shape == (3,)


def test_every_engine_clips_and_hides_alike():
    both(noisy(noise_multiplier=1.0, sampling="poisson"), stack_size=2)
    both(noisy(local_noise=0.5), stack_size=3)
    both(noisy(clip_quantile=0.5, noise_multiplier=0.1), stack_size=2, partition=ragged())


def test_the_norm_follows_the_quantile():
    """Norms of a log-normal distribution, whose 0.3 quantile is exp(-0.52 sigma); C starts far off on either side."""
    m, generator = 400, torch.Generator().manual_seed(0)
    for start, z in ((0.01, 0.0), (30.0, 0.0), (0.01, 1.0)):
        base = config(num_clients=m, num_select_clients=m)
        c = noisy(base, clip_norm=start, clip_quantile=0.3, noise_multiplier=z)
        now, seen = begin(c, {"a": torch.zeros(1)}), []
        for t in range(1, 201):
            norms = torch.randn(m, generator=generator).mul(0.5).exp()
            C = norm_at(now)
            reports = [Report(k, 1, 0.0, 1, 1, float(norm > C)) for k, norm in enumerate(norms)]
            now = replace(now, t=t, kept=follow_the_quantile(now, Got(now.w, reports, {}, now.kept)).kept)
            seen.append(norm_at(now))
        assert math.fsum(seen[100:]) / 100 == pytest.approx(math.exp(0.5 * -0.5244), rel=0.02)


def test_with_poisson_sampling_each_client_comes_with_its_own_probability():
    """1,000 rounds, seed 0; the bounds are four standard deviations."""
    c = resolve({"num_clients": 50, "num_select_clients": 5, "sampling": "poisson", "dropout_rate": 0.2})
    partition = iid(torch.zeros(500, dtype=torch.int64), 50, 0)
    met = [cohort(c, partition, t, 0.0, (1, 1)) for t in range(1, 1001)]
    sizes = torch.tensor([len(S_t.called) for S_t in met], dtype=torch.float64)
    assert float(sizes.mean()) == pytest.approx(5, abs=4 * math.sqrt(4.5 / 1000))
    assert float(sizes.var()) == pytest.approx(4.5, rel=0.2)
    counts = torch.bincount(torch.tensor([k for S_t in met for k in S_t.called]), minlength=50)
    assert (counts - 100).abs().max() < 4.5 * math.sqrt(90)
    assert all(S_t.abandoned == (not S_t.reporting) for S_t in met)
    assert any(S_t.abandoned for S_t in met)
    assert all(len(S_t.reporting) + len(S_t.dropped) == len(S_t.called) for S_t in met)


RARE = "--sampling poisson --num_clients 20 --num_select_clients 1 --global_epoch 6"


HIDDEN = "--clip_norm 0.1 --noise_multiplier 1 --insecure_noise"


@accounted
@pytest.mark.parametrize("algorithm", ["fedavg", "fedadam"])
def test_a_round_without_reports_has_its_noise_and_its_price(algorithm, command):
    done = command("federated", f"{RARE} {HIDDEN} --algorithm {algorithm}")
    empty = [r for r in done.records[1:] if not r["clients"]]
    assert empty
    assert not any("abandoned" in r for r in done.records)
    losses = [r["test_loss"] for r in done.records]
    assert len(set(losses)) == len(losses)
    spent_so_far = [r["epsilon"] for r in done.records]
    assert spent_so_far[0] == 0
    assert spent_so_far == sorted(set(spent_so_far))
    assert done.summary["epsilon"] == spent_so_far[-1]
    plain = command("federated", f"{RARE} --clip_norm 0.1")
    assert [r["round"] for r in plain.records if r.get("abandoned")] == [r["round"] for r in empty]


@accounted
@pytest.mark.parametrize(
    "flags",
    [
        "--noise_multiplier 0.1 --clip_quantile 0.5 --sampling poisson --dropout_rate 0.3 --algorithm fedavgm",
        "--noise_multiplier 1 --local_noise 0.3 --algorithm fedprox",
    ],
)
def test_stopped_and_resumed_or_in_two_processes_gives_the_same_bits(flags, same_anyhow):
    whole = same_anyhow(f"{flags} --clip_norm 0.1 --insecure_noise --global_epoch 4")
    assert all(record["epsilon"] for record in whole.records[1:])


@accounted
def test_secure_noise_is_never_the_same(command):
    one, other = (command("federated", "--clip_norm 0.1 --noise_multiplier 1") for _ in range(2))
    assert one.sha256 != other.sha256
    assert "secure generator" in (one.folder / "environment.json").read_text()
    seeded = command("federated", HIDDEN)
    assert "protects nothing" in (seeded.folder / "environment.json").read_text()


def test_every_process_has_the_key_of_the_first():
    class Second(Group):
        rank, size = 1, 2

        def content_from(self, rank, content):
            assert (rank, len(content)) == (0, 64)
            return "ab" * 32

    c = noisy(noise_multiplier=1.0, insecure_noise=False)
    assert key_of(c, Second()) == b"\xab" * 32
    assert len({key_of(c, Group()) for _ in range(9)}) == 9
    assert key_of(noisy(noise_multiplier=1.0), Second()) == key_of(noisy(noise_multiplier=1.0), Group())
    assert key_of(config(clip_norm=1.0), Second()) == b""
