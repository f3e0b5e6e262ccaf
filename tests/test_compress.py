"""Updates in fewer bytes: what is sent, how many bytes that is, and that it is the same whoever trains."""

from __future__ import annotations

import math

import pytest
import torch

from fl.check import resolve
from fl.engines.sequential import Sequential
from fl.experiment import federated
from fl.names import named
from fl.state import Kept, Report, RoundStart, Update
from fl.transforms import COMPRESSORS
from fl.transforms.compress import compress
from tests.rounds import run_rounds
from tests.test_engines import both
from tests.test_golden import close, config, ragged, run, task_of

SIZES = [120, 7, 1, 40]
KINDS = [
    {"compress": "quantise", "compress_bits": 1}, {"compress": "quantise", "compress_bits": 5},
    {"compress": "quantise", "compress_bits": 16}, {"compress": "top_k", "compress_density": 0.03},
    {"compress": "top_k", "compress_density": 0.4}, {"compress": "top_k", "compress_density": 1.0},
    {"compress": "random_mask", "compress_density": 0.3}, {"compress": "sign"},
]  # fmt: skip
FEEDING_BACK = ("top_k", "sign")


def compressor(**flags):
    return named("compress", flags["compress"])(config(**flags))


def deltas(S, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(S, sum(SIZES), generator=generator, dtype=dtype) * torch.logspace(-3, 1, sum(SIZES))
    delta[:, 5:9] = 0
    return delta


def sent(one, delta, seeds):
    return one.expand(one.shrink(delta, SIZES, seeds), SIZES)


def test_every_compressor_is_tested():
    assert {kind["compress"] for kind in KINDS} | {"none"} == set(COMPRESSORS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("flags", KINDS)
def test_the_bytes_say_what_the_training_uses(flags, dtype):
    one, delta = compressor(**flags), deltas(4, dtype=dtype)
    delta[2] = 0
    delta[3] = torch.randn(sum(SIZES), dtype=dtype) * 1e-38
    for row, seed, used in zip(delta, (5, 2**63 - 1, 7, 0), sent(one, delta, [5, 2**63 - 1, 7, 0]), strict=True):
        data = one.encode(row, SIZES, seed)
        assert len(data) == one.length(SIZES, dtype.itemsize)
        again = one.decode(data, SIZES, dtype)
        assert (again.dtype, again.shape) == (dtype, row.shape)
        assert torch.equal(again, used)


@pytest.mark.parametrize(
    ("flags", "length"),
    [
        ({"compress": "quantise", "compress_bits": 5}, 4 * 2 * 4 + 105),  # 168 values of 5 bits, two ends a tensor
        ({"compress": "top_k", "compress_density": 0.03}, 5 * 4 + 5),  # 5 values, 5 positions of 8 bits
        ({"compress": "top_k", "compress_density": 0.4}, 67 * 4 + 21),  # a bit a value is shorter
        ({"compress": "random_mask", "compress_density": 0.3}, 8 + 50 * 4),
        ({"compress": "sign"}, 4 * 4 + 21),
    ],
)
def test_the_length_by_hand(flags, length):
    assert len(compressor(**flags).encode(deltas(1)[0], SIZES, 0)) == length


@pytest.mark.parametrize("flags", [kind for kind in KINDS if kind["compress"] in ("quantise", "random_mask")])
def test_the_unbiased_ones_are(flags):
    """The mean over n draws of each coordinate, in standard errors: by chance one test in 100 000 fails.

    Bonferroni over the coordinates, and normal because n is large; the seeds are fixed, so it fails always or never.
    """
    n, delta = 20_000, deltas(1, dtype=torch.float64)
    one = compressor(**flags)
    drawn = torch.cat([sent(one, delta.expand(1000, -1), range(s, s + 1000)) for s in range(0, n, 1000)])
    error, spread = drawn.mean(0) - delta[0], drawn.std(0)
    moving = spread > 1e-12
    assert moving.sum() > 100
    threshold = -torch.special.ndtri(torch.tensor(1e-5 / 2 / sum(SIZES), dtype=torch.float64))
    assert (error[moving].abs() < threshold * spread[moving] / math.sqrt(n)).all()
    assert (error[~moving].abs() <= 1e-12).all()  # those that stand on a level


def test_top_k_keeps_the_greatest_and_sign_the_signs():
    delta = deltas(2)
    top = sent(compressor(compress="top_k", compress_density=0.1), delta, [0, 0])
    for row, kept in zip(delta, top, strict=True):
        assert torch.equal(kept.nonzero()[:, 0], row.abs().argsort(descending=True)[:17].sort().values)
        assert torch.equal(kept[kept != 0], row[kept != 0])
    signs = sent(compressor(compress="sign"), delta, [0, 0])
    for part, exact in zip(signs.split(SIZES, 1), delta.split(SIZES, 1), strict=True):
        expected = torch.where(exact >= 0, 1, -1) * exact.abs().mean(1, keepdim=True)
        torch.testing.assert_close(part, expected)


@pytest.mark.parametrize("kind", ["top_k", "random_mask"])
def test_a_mask_that_keeps_everything_is_fedavg(kind):
    plain, all_of_it = config(), config(compress=kind, compress_density=1.0)
    rounds = []
    for c in (plain, all_of_it):
        task = task_of(c)
        rounds.append(run(c, task, ragged())[-1].w)
    close(*rounds, 1e-12)


def test_many_bits_are_nearly_fedavg():
    """A step of 16 bits is a 65535th of a tensor's range, and three rounds add up."""
    plain, fine = config(), config(compress="quantise", compress_bits=16)
    close(*(run(c, task_of(c), ragged())[-1].w for c in (plain, fine)), 1e-4)


@pytest.mark.parametrize("flags", KINDS)
def test_every_engine_agrees(flags):
    both(config(global_epoch=4, **flags), stack_size=2)


@pytest.mark.parametrize("flags", KINDS)
def test_a_stack_gives_the_bits_of_its_clients(flags):
    delta, seeds, one = deltas(5), list(range(5)), compressor(**flags)
    alone = torch.cat([sent(one, row.unsqueeze(0), [seed]) for row, seed in zip(delta, seeds, strict=True)])
    assert torch.equal(sent(one, delta, seeds), alone)


@pytest.mark.parametrize("kind", FEEDING_BACK)
def test_what_is_left_out_comes_later(kind):
    """All that was sent and what is still kept are all that the client wanted to send."""
    c = config(compress=kind)
    transform, w = compress(c), {"a": torch.zeros(50, dtype=torch.float64), "n": torch.tensor(3)}
    generator, kept, wanted, got = torch.Generator().manual_seed(0), Kept(), 0.0, 0.0
    for t in range(1, 6):
        delta = torch.randn(1, 50, generator=generator, dtype=torch.float64)
        now = RoundStart(c, t, w, kept, ["a"], 12, {1: 4})
        update = transform.client(now, Update([Report(1, 4, 0.0, 4, 1)], {"a": delta.clone(), "n": torch.tensor([5])}))
        assert torch.equal(update.w["n"], torch.tensor([5]))
        kept = kept.with_clients(update.kept)
        wanted, got = wanted + delta[0], got + update.w["a"][0]
        torch.testing.assert_close(got + kept.of(1, "residual"), wanted, rtol=0, atol=1e-12)
    assert kept.of(1, "residual").norm() > 0.1


def test_a_client_whose_update_is_rejected_keeps_its_old_residual():
    c = config(compress="top_k")
    task = task_of(c)
    rounds = []
    for spoilt in ((), (2,)):

        class Spoiling(Sequential):
            def train(self, clients, now, tell, spoilt=spoilt):
                for update in super().train(clients, now, tell):
                    if now.t in spoilt and update.reports[0].client == 1:
                        next(iter(update.w.values())).fill_(math.nan)
                    yield update

        rounds.append(list(run_rounds(task_of(c), ragged(), Spoiling(task.model, task.data, ragged(), c), c)))
    clean, other = rounds
    assert other[2].record["rejected"] == {1: "not finite"}
    assert torch.equal(other[2].kept.of(1, "residual"), other[1].kept.of(1, "residual"))
    assert not torch.equal(clean[2].kept.of(1, "residual"), clean[1].kept.of(1, "residual"))
    assert all(x.isfinite().all() for x in other[3].w.values())


@pytest.mark.parametrize(
    "flags", ["sign", "top_k --compress_density 0.05 --algorithm fsvrg", "quantise --compress_bits 3", "random_mask"]
)
def test_stopped_and_resumed_or_in_two_processes_gives_the_same_bits(flags, same_anyhow):
    flags = f"--compress {flags} --dropout_rate 0.2 --over_select 2 --min_reports 2 --global_epoch 5"
    same_anyhow(flags, workers="sign" in flags or "quantise" in flags)  # one that keeps something, and one that draws


def test_the_record_counts_the_bytes(command):
    done = command("federated", "--compress sign --global_epoch 1")
    x = federated(resolve({"dataset": "tiny", "model": "logistic", "num_clients": 4, "num_select_clients": 2}))
    one = 2 * 4 + math.ceil(x.parameters / 8)
    record = done.records[1]
    assert record["compressed_bytes"] == record["uplink_bytes"] == 2 * one
    assert record["downlink_bytes"] == 2 * x.model_bytes
    assert done.summary["compressed_bytes"] == 2 * one
    both_vectors = command("federated", "--compress sign --algorithm fsvrg --global_epoch 1").records[1]
    assert both_vectors["compressed_bytes"] == 2 * one
    assert both_vectors["uplink_bytes"] == 2 * (one + x.model_bytes)  # the gradient goes as it is
    assert "compressed_bytes" not in command("federated", "--global_epoch 1").records[1]


def test_fewer_bytes_take_less_time(command):
    slow, quick = (
        command("federated", f"--compress {kind} --upload_mbps 0.001 --speed_spread 0 --global_epoch 1").records[1]
        for kind in ("none", "sign")
    )
    assert slow["uplink_bytes"] / quick["uplink_bytes"] == pytest.approx(
        slow["simulated_seconds"] / quick["simulated_seconds"]
    )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--compress zip", "--compress zip: expected one of none, quantise, top_k, random_mask, sign"),
        ("--compress_bits 4", "--compress_bits 4: needs --compress quantise"),
        ("--compress sign --algorithm scaffold", "--compress sign: needs another --algorithm"),
        ("--compress sign --compress_density 0.5", "--compress_density 0.5: needs --compress top_k or random_mask"),
        ("--compress quantise --compress_bits 17", "--compress_bits 17: expected an integer from 1 to 16"),
        ("--compress top_k --compress_density 0", "--compress_density 0: expected a number in (0, 1]"),
    ],
)
def test_flags_that_do_not_fit_are_refused(more, words, command):
    done = command("federated", more)
    assert done.code == 2
    assert words in done.err
