import math
import random

import pytest
import torch

from fl.aggregates.mean import WeightedMean
from fl.optimizers import FederatedAvgServer

GENERATOR = torch.Generator().manual_seed(0)


def mean(*pairs, m=None, largest=1.0):
    rule = WeightedMean(pairs[0][0], m or len(pairs), largest)
    for w_k, n_k in pairs:
        rule.add({name: tensor.unsqueeze(0) for name, tensor in w_k.items()}, [n_k])
    return rule.result(math.fsum(n_k for _, n_k in pairs))


def test_weights_are_numbers_of_examples():
    result = mean(({"a": torch.tensor([1.0, 2.0])}, 3), ({"a": torch.tensor([5.0, -2.0])}, 1))
    assert result["a"].tolist() == [2.0, 1.0]


@pytest.mark.parametrize("n_k", [[600], [7, 601, 13], [60_000] * 4])
def test_the_mean_of_equal_models_equals_them_bit_for_bit(n_k):
    values = torch.randn(200_000, generator=GENERATOR) * 10 ** torch.linspace(-6, 2, 200_000)
    w = {"a": torch.cat([values, torch.zeros(3)])}
    assert torch.equal(mean(*((w, n) for n in n_k))["a"], w["a"])


def cohort(m, size=70_000):
    scale = 10 ** torch.linspace(-9, 2, size)
    return [({"a": torch.randn(size, generator=GENERATOR) * scale, "b": torch.randn(3, 5, generator=GENERATOR)},
             int(torch.randint(1, 5000, (), generator=GENERATOR))) for _ in range(m)]  # fmt: skip


def test_bits_depend_neither_on_order_nor_on_grouping():
    clients = cohort(12)
    expected = mean(*clients)
    order = random.Random(0)
    for _ in range(5):
        shuffled = order.sample(clients, len(clients))
        cut = order.randint(1, 11)
        parts = []
        for part in (shuffled[:cut], shuffled[cut:]):  # two workers, each with one stack
            rule = WeightedMean(part[0][0], 12)
            rule.add({name: torch.stack([w[name] for w, _ in part]) for name in part[0][0]}, [n for _, n in part])
            parts.append(rule)
        parts[0].sums += parts[1].sums
        result = parts[0].result(sum(n for _, n in clients))
        assert all(torch.equal(result[name], expected[name]) for name in expected)


def test_a_plain_float64_sum_does_depend_on_order():
    """The test above can fail: the plain sum, on the same clients, does."""
    clients = cohort(12)
    plain = [sum(w["a"].double() * n for w, n in some) for some in (clients, clients[::-1])]
    assert not torch.equal(*plain)


@pytest.mark.parametrize("exponent", [-1074, -1000, -80, -50, -30, 0, 40, 60, 1000])
def test_weights_of_any_size(exponent):
    """What matters of weights is what they are to each other: 3 and 1 times a power of two here."""
    clients = [(w, n_k) for (w, _), n_k in zip(cohort(4), (3, 1, 1, 2), strict=True)]
    scaled = [(w, math.ldexp(n_k, exponent)) for w, n_k in clients]
    expected, ours = mean(*clients), mean(*scaled, largest=scaled[0][1])
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    backwards = mean(*scaled[::-1], largest=scaled[0][1])
    assert all(torch.equal(ours[name], backwards[name]) for name in expected)


@pytest.mark.parametrize("exponent", [-1000, -50, 60])
def test_the_server_of_ones_own_code_takes_weights_of_any_size(exponent):
    w = [torch.randn(1000, generator=GENERATOR) for _ in range(3)]
    results = []
    for scale in (0, exponent):
        server = FederatedAvgServer([torch.zeros(1000)])
        server.step([(math.ldexp(n_k, scale), [w_k.clone()]) for n_k, w_k in zip((3, 1, 2), w, strict=True)])
        results.append(server.parameters[0])
    assert torch.equal(*results)


def test_it_is_the_mean():
    clients = cohort(9)
    n = sum(n for _, n in clients)
    exact = sum(w["a"].double() * n_k for w, n_k in clients) / n
    torch.testing.assert_close(mean(*clients)["a"], exact.float(), rtol=2e-7, atol=1e-15)


def test_integer_buffers_take_the_maximum_and_keep_their_type():
    pairs = [({"a": torch.ones(1), "n": torch.tensor(count)}, n_k) for count, n_k in ((3, 1), (8, 1), (5, 9))]
    result = mean(*pairs)
    assert result["n"].item() == 8
    assert result["n"].dtype == torch.int64


def test_updates_are_left_alone_and_dtypes_kept():
    w = {"a": torch.ones(2, dtype=torch.float32)}
    result = mean((w, 2), ({"a": torch.zeros(2)}, 2))
    assert w["a"].tolist() == [1.0, 1.0]
    assert result["a"].dtype == torch.float32
