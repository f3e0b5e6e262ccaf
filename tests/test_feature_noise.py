"""--feature_noise: client k of K trains on inputs with noise of variance sigma k / K."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data.dataset import Dataset, Split
from data.niid_bench import noisy
from data.partition import Partition, iid
from fl.errors import FlagError
from tests.tiny import tiny, tokens, vectors

K = 4


def wide(dtype: torch.dtype) -> Dataset:
    """Eight grey pictures of 100x100, of bytes or of floats; a mean and a deviation, which noise must not heed."""
    x = torch.full((8, 1, 100, 100), 51, dtype=torch.uint8)
    x = x if dtype == torch.uint8 else (x / 255).to(dtype)
    y = torch.arange(8) % 2
    return Dataset("wide", Split(x, y), Split(x[:2], y[:2]), 2, mean=0.3, std=0.5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_variance_grows_with_the_number_of_the_client(dtype):
    clean, partition = wide(dtype), iid(torch.arange(8), K, 0)
    data = noisy(clean, partition, 0.2, 0)
    for k, rows in enumerate(partition):
        added = data.inputs(rows) - clean.inputs(rows)
        assert float(added.var()) == pytest.approx(0.2 * (k + 1) / K / 0.5**2, rel=0.05)
        assert abs(float(added.mean())) < 0.02
    torch.testing.assert_close(data.batch(data.test, slice(2))[0], clean.batch(clean.test, slice(2))[0])
    assert torch.equal(clean.train.examples, wide(dtype).train.examples)


def test_noise_is_the_clients_own_and_follows_from_the_seed():
    clean = wide(torch.uint8)
    partition = iid(torch.arange(8), K, 0)
    one, again, other = (noisy(clean, partition, 0.2, seed).train.examples for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert len({tuple(example.flatten().tolist()) for example in one}) == 8
    assert noisy(clean, partition, 0.0, 0) is clean


def test_tables_and_clients_of_one_row_take_noise():
    clean = vectors(Path())
    partition = Partition.from_owners(torch.arange(len(clean.train)).clamp(max=1), 2)
    added = noisy(clean, partition, 1.0, 0).train.examples - clean.train.examples
    assert (added != 0).all()


def test_words_take_no_noise():
    data = tokens(Path())
    partition = iid(data.labels, K, 0)
    with pytest.raises(
        FlagError, match=r"--feature_noise 0.1: --dataset tokens has words, not numbers; leave the flag"
    ):
        noisy(data, partition, 0.1, 0)


def test_engines_agree_and_a_cut_run_goes_on_to_the_same_bits(command):
    flags = "--feature_noise 0.5 --engine"
    whole = command("federated", f"{flags} stacked", folder="a")
    assert whole.code == 0
    assert whole.sha256 != command("federated", "--engine stacked").sha256
    one, other = (
        [r["test_loss"] for r in command("federated", f"{flags} {e}").records] for e in ("sequential", "stacked")
    )
    assert one == pytest.approx(other, rel=1e-5)
    assert command("federated", f"{flags} stacked --global_epoch 1", folder="b").code == 0
    assert command("federated", "--resume --global_epoch 3", folder="b").sha256 == whole.sha256
    assert command("federated", f"{flags} distributed --workers 1").sha256 in {
        command("federated", f"{flags} {engine}").sha256 for engine in ("sequential", "stacked")
    }


def test_the_test_set_is_clean():
    clean = tiny(Path())
    data = noisy(clean, iid(clean.labels, K, 0), 1e4, 0)
    torch.testing.assert_close(data.test.examples, clean.test.examples / 255)
