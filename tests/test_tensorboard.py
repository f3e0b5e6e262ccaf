"""--tensorboard writes the numbers of metrics.jsonl, each once, also after a resumption."""

from __future__ import annotations

import json

import pytest


def scalars(folder):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard")
    events = reader.EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0, "scalars": 0}).Reload()
    from tensorboard.util import tensor_util

    return {key: [(e.step, float(tensor_util.make_ndarray(e.tensor_proto))) for e in events.Tensors(key)]
            for key in events.Tags()["tensors"]}  # fmt: skip


def test_the_numbers_of_the_records(command):
    pytest.importorskip("tensorboard", reason="needs tensorboard: sh requirements.sh tensorboard")
    done = command("federated", "--tensorboard", folder="a")
    assert done.code == 0
    command("federated", "--resume --global_epoch 5", folder="a")
    records = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]
    found = scalars(done.folder)
    for key in ("test_accuracy", "test_loss", "train_loss", "examples", "uplink_bytes", "round_seconds"):
        assert found[key] == [(r["round"], r[key]) for r in records if r[key] is not None]
    command("federated", "--overwrite", folder="a")
    assert not (done.folder / "tensorboard").exists()


def test_without_the_package_it_is_refused_before_anything_is_written(command, monkeypatch):
    import fl.config

    monkeypatch.setattr(fl.config, "find_spec", lambda name: None)
    done = command("federated", "--tensorboard", folder="a")
    assert (done.code, done.folder.exists()) == (2, False)
    assert done.err == (
        "run_federated.py: --tensorboard: needs a package that is not here: sh requirements.sh tensorboard\n"
    )
