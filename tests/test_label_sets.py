import pytest

from data.label_sets import label_sets, labels_only
from fl.errors import FlagError
from tests.test_partition import LABELS, whole


@pytest.mark.parametrize("c", [1, 2, 3, 10])
def test_labels_per_client(c):
    partition = labels_only(LABELS, 20, 0, c)
    whole(partition, 1010)
    counts = partition.label_counts(LABELS, 10)
    assert ((counts > 0).sum(1) == c).all()
    assert all(counts[i, i % 10] > 0 for i in range(20))
    for label in range(10):  # shared equally
        shares = counts[:, label][counts[:, label] > 0]
        assert int(shares.max() - shares.min()) <= 1
    assert c in (1, 10) or labels_only(LABELS, 20, 1, c).sha256() != partition.sha256()


def test_label_sets_are_what_clients_hold():
    held = label_sets(LABELS, 4, 0, "0,1,2,3;3,4,5;3,6,7;8,9")
    whole(held, 1010)
    counts = held.label_counts(LABELS, 10)
    assert counts[0].tolist() == [101, 101, 101, 34, 0, 0, 0, 0, 0, 0]
    assert counts[:, 3].sort().values.tolist() == [0, 33, 34, 34]
    assert counts[3].tolist() == [0] * 8 + [101, 101]
    assert held.sha256() != label_sets(LABELS, 4, 1, "0,1,2,3;3,4,5;3,6,7;8,9").sha256()


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ("0,10;1", "--label_sets 0,10;1: has 10; expected labels from 0 to 9"),
        ("0,1;2", "--label_sets 0,1;2: 0 clients would share the 101 examples of label 3; change the sets"),
    ],
)
def test_label_sets_that_do_not_cover_the_labels(sets, message):
    with pytest.raises(FlagError) as error:
        label_sets(LABELS, 2, 0, sets)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("K", "c", "message"),
    [
        (10, 11, "--labels_per_client 11: expected at most 10, the number of labels"),
        (3, 1, "--labels_per_client 1: with --num_clients 3, 0 clients would share the 101 examples of label 3; raise"),
        (1009, 10, "--labels_per_client 10: with --num_clients 1009, 1009 clients would share the 101 examples of"),
    ],
)
def test_labels_that_cannot_be_shared_out(K, c, message):
    with pytest.raises(FlagError) as error:
        labels_only(LABELS, K, 0, c)
    assert str(error.value).startswith(message)
