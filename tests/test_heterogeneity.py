"""How much clients differ: on partitions whose distance from the whole is known."""

from __future__ import annotations

import json

import pytest
import torch

from data.heterogeneity import heterogeneity, in_words


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([[5, 5], [50, 50]], ([10, 10, 100], [2, 2, 2], 0.0)),
        ([[9, 0, 0], [0, 9, 0], [0, 0, 9]], ([9, 9, 9], [1, 1, 1], 0.6667)),  # 1 - 1/3
        ([[1, 0], [30, 30], [30, 29]], ([1, 59, 60], [1, 2, 2], 0.1667)),  # each client counts once, whatever its size
        ([[7, 3]], ([10, 10, 10], [2, 2, 2], 0.0)),
        ([[2, 0, 0], [2, 0, 0]], ([2, 2, 2], [1, 1, 1], 0.0)),  # labels that no one has
    ],
)
def test_known_partitions(counts, expected):
    sizes, labels, distance = expected
    found = heterogeneity(torch.tensor(counts))
    assert found == {"clients": len(counts), "sizes": sizes, "labels": labels, "total_variation": distance}


def test_in_words():
    words = in_words(heterogeneity(torch.tensor([[1000, 0], [30, 30]])))
    assert words == "2 clients, n_k 60 to 1,000, 1 to 2 labels, total variation 0.25"
    assert in_words(heterogeneity(torch.tensor([[3, 0]]))) == "1 client, n_k 3, 1 label, total variation 0.00"


def test_a_run_says_it_on_screen_and_in_its_folder(command):
    done = command("federated", "--partition shards --shards_per_client 1", folder="a")
    noted = json.loads((done.folder / "environment.json").read_text())["partition"]
    assert noted["clients"] == 4
    assert sum(noted["sizes"]) > 0
    assert f"partition shards: {in_words(noted)}\n" in done.out
    assert "total variation" not in command("federated", "--quiet").out
    assert "a client, median" in command("federated", "--dry_run").out


def test_a_run_of_before_goes_on_without_a_warning(command):
    whole = command("federated", folder="a")
    command("federated", "--global_epoch 1", folder="b")
    path = whole.folder.parent / "b" / "environment.json"
    content = json.loads(path.read_text())
    del content["partition"]
    path.write_text(json.dumps(content))
    done = command("federated", "--resume --global_epoch 3", folder="b")
    assert (done.code, done.err, done.sha256) == (0, "", whole.sha256)
    assert json.loads(path.read_text())["partition"]["clients"] == 4
