import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.label_sets import labels_only
from data.niid_bench import dirichlet_balanced
from data.partition import dirichlet, iid, natural, quantity, shards
from fl.errors import FlagError

LABELS = torch.arange(10).repeat_interleave(101)[torch.randperm(1010, generator=torch.Generator().manual_seed(0))]


def whole(partition, n):
    """Disjoint, covering, nobody empty, ascending within a client."""
    assert partition.indices.sort().values.tolist() == list(range(n))
    assert int(partition.sizes.min()) >= 1
    assert all((part.diff() > 0).all() for part in partition)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["iid", "shards", "labels", "dirichlet", "dirichlet_balanced", "quantity"]),
    n=st.integers(1, 300),
    K=st.integers(1, 40),
    alpha=st.floats(0.01, 100),
    per=st.integers(1, 4),
    seed=st.integers(0, 2**62),
)
def test_every_partition_is_whole_or_names_the_flag_to_change(name, n, K, alpha, per, seed):
    labels = torch.arange(n) % 7
    split = {
        "iid": lambda: iid(labels, K, seed),
        "shards": lambda: shards(labels, K, seed, per),
        "labels": lambda: labels_only(labels, K, seed, per),
        "dirichlet": lambda: dirichlet(labels, K, seed, alpha),
        "dirichlet_balanced": lambda: dirichlet_balanced(labels, K, seed, alpha, per),
        "quantity": lambda: quantity(labels, K, seed, alpha),
    }[name]
    try:
        partition = split()
    except FlagError:
        assert n < K or (name == "shards" and K * per > n) or name in ("dirichlet", "dirichlet_balanced", "labels")
        return
    assert len(partition) == K
    whole(partition, n)
    assert torch.equal(partition.indices, split().indices)


def test_iid_sizes_differ_by_at_most_one_and_labels_are_mixed():
    partition = iid(LABELS, 7, 0)
    assert int(partition.sizes.max() - partition.sizes.min()) <= 1
    assert (partition.label_counts(LABELS, 10) > 0).all()


def test_shards_hold_few_labels():
    partition = shards(LABELS, 50, 0, 2)
    # A shard of about ten of one label's 101 examples holds one or two labels.
    assert int((partition.label_counts(LABELS, 10) > 0).sum(1).max()) <= 4
    assert float((partition.label_counts(LABELS, 10) > 0).sum(1).float().mean()) < 2.5


def test_shards_of_the_paper_hold_two_labels():
    labels = torch.arange(10).repeat_interleave(6000)
    partition = shards(labels, 100, 0, 2)
    assert partition.sizes.tolist() == [600] * 100
    assert int((partition.label_counts(labels, 10) > 0).sum(1).max()) == 2


def test_alpha_sets_the_skew():
    def skew(partition):
        counts = partition.label_counts(LABELS, 10).float()
        return float((counts.max(1).values / counts.sum(1)).mean())

    assert (
        skew(dirichlet(LABELS, 10, 0, 0.1)) > skew(dirichlet(LABELS, 10, 0, 1.0)) > skew(dirichlet(LABELS, 10, 0, 100))
    )
    sizes = [quantity(LABELS, 10, 0, alpha).sizes.float().std() for alpha in (0.2, 2.0, 200.0)]
    assert sizes[0] > sizes[1] > sizes[2]


def test_dirichlet_means_what_it_says():
    """Over many clients the share of one label has the mean 1/K and the variance of Dirichlet(alpha)."""
    labels = torch.zeros(200_000, dtype=torch.int64)
    K, alpha = 50, 2.0
    share = dirichlet(labels, K, 0, alpha).sizes / len(labels)
    variance = (1 / K) * (1 - 1 / K) / (K * alpha + 1)
    assert abs(float(share.var(unbiased=False)) / variance - 1) < 0.6


# Runs that were made before these partitions had a least number of examples must find their partition again.
@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (dirichlet, "fdb1548ffcdf700157955caadc91a462e4d827049b097024bfaf770737f9a240"),
        (quantity, "8647b626f119a91306b10ff821a130565163623fef984905c6aa2b1164aa9943"),
    ],
)
def test_without_a_least_number_of_examples_partitions_are_what_they_were(split, expected):
    assert split(LABELS, 9, 3, 0.3).sha256() == split(LABELS, 9, 3, 0.3, 1).sha256() == expected


@pytest.mark.parametrize("split", [dirichlet, dirichlet_balanced, quantity])
def test_each_client_has_the_least_number_of_examples(split):
    few, many = (split(LABELS, 9, 5, 0.1, least) for least in (1, 20))
    assert int(few.sizes.min()) < 20 <= int(many.sizes.min())
    with pytest.raises(
        FlagError, match="--min_examples 200: with --num_clients 9 that is 1800 examples, and there are"
    ):
        split(LABELS, 9, 0, 0.5, 200)


def test_a_least_number_that_no_draw_reaches_is_named():
    with pytest.raises(FlagError, match="with fewer than --min_examples 100; raise --alpha or lower"):
        dirichlet(LABELS, 10, 0, 0.1, 100)


def test_balanced_dirichlet_gives_full_clients_no_further_label():
    """Labels come in ascending order, so one that a client has after n / K examples would show it."""
    plain, balanced = dirichlet(LABELS, 10, 0, 0.3, 10), dirichlet_balanced(LABELS, 10, 0, 0.3)
    counts = balanced.label_counts(LABELS, 10)
    before = counts.cumsum(1) - counts
    assert not bool(((before >= 101) & (counts > 0)).any())
    assert int(balanced.sizes.max()) < int(plain.sizes.max())


def test_dirichlet_gives_up_with_the_flag_and_the_way_out():
    with pytest.raises(FlagError, match=r"--alpha 0.001: .*raise --alpha or lower --num_clients"):
        dirichlet(LABELS, 500, 0, 0.001)


@pytest.mark.parametrize("alpha", [1e-6, 1e6])
def test_extreme_alphas_stay_finite(alpha):
    whole(quantity(LABELS, 9, 0, alpha), len(LABELS))


def test_hash_follows_the_split():
    assert iid(LABELS, 5, 0).sha256() == iid(LABELS, 5, 0).sha256()
    assert len({iid(LABELS, K, seed).sha256() for K in (5, 6) for seed in (0, 1)}) == 4


def test_label_counts():
    partition = iid(LABELS, 3, 0)
    counts = partition.label_counts(LABELS, 10)
    for k, part in enumerate(partition):
        assert counts[k].tolist() == torch.bincount(LABELS[part], minlength=10).tolist()


def test_natural_clients_hold_their_own():
    owners = torch.arange(len(LABELS)) % 7
    partition = natural(LABELS, 0, seed=3, clients=owners)
    assert len(partition) == 7
    for k, part in enumerate(partition):
        assert set(owners[part].tolist()) == {k}
    assert natural(LABELS, 7, seed=4, clients=owners).sha256() == partition.sha256()


def test_natural_clients_are_as_many_as_the_data_set_says():
    with pytest.raises(FlagError, match="--num_clients 5: the data set has 3 clients of its own"):
        natural(LABELS, 5, 0, clients=torch.arange(len(LABELS)) % 3)
    with pytest.raises(FlagError, match="--partition natural: the --dataset does not say"):
        natural(LABELS, 0, 0)
