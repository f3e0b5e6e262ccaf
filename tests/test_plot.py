import pytest
import torch
from PIL import Image

from fl.plot import save_comparison, save_curves, save_partition


def record(t, accuracy, loss):
    return {"round": t, "test_accuracy": accuracy, "test_loss": loss, "train_loss": loss if t else None,
            "examples": 10, "downlink_bytes": 5, "uplink_bytes": 5, "round_seconds": 0.1}  # fmt: skip


CURVE = [record(0, 0.1, 2.3), record(1, None, None), record(2, 0.8, 0.4)]


def is_a_picture(path):
    with Image.open(path) as image:
        assert image.width > 500
        assert image.convert("L").getextrema() != (255, 255)


@pytest.mark.parametrize("K", [1, 8, 40, 41, 100, 1000])
def test_partition_pictures_for_any_number_of_clients(K, tmp_path):
    save_partition(tmp_path / "p.png", torch.randint(0, 50, (K, 10)), "title")
    is_a_picture(tmp_path / "p.png")


def test_curves(tmp_path):
    save_curves(tmp_path / "c.png", CURVE, "title", [0.5])
    is_a_picture(tmp_path / "c.png")
    save_curves(tmp_path / "c.png", [record(0, 0.1, 0.0)], "one round of zero loss")
    is_a_picture(tmp_path / "c.png")


def test_comparison_of_more_runs_than_colours(tmp_path):
    runs = {f"run {i}": [CURVE, CURVE] for i in range(9)}
    save_comparison(tmp_path / "c.png", runs)
    is_a_picture(tmp_path / "c.png")
