import os

import pytest
import torch

from fl.errors import RunFolderError
from fl.records import checkpoint
from fl.records.files import write_atomic

CONTENT = {"round": 3, "w": {"a": torch.arange(6.0).view(2, 3)}, "carry": {"optimizers": {4: [1, "x", None]}}}


def test_round_trip(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save(path, CONTENT)
    loaded = checkpoint.load(path)
    assert torch.equal(loaded["w"]["a"], CONTENT["w"]["a"])
    assert loaded["carry"] == CONTENT["carry"]
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.slow
def test_every_flipped_byte_and_every_truncation_is_reported(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save(path, CONTENT)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        with pytest.raises(RunFolderError, match=r"c\.pt: corrupt"):
            checkpoint.load(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(RunFolderError, match=r"c\.pt: corrupt"):
            checkpoint.load(path)


def test_objects_are_not_unpickled(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"w": os.path.join})
    with pytest.raises(RunFolderError, match="not a checkpoint"):
        checkpoint.load(path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "f"
    write_atomic(path, b"old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_model_hash_is_over_names_shapes_and_bytes_whatever_the_memory_format():
    w = {"a": torch.randn(2, 3, 4, 4), "n": torch.tensor(3)}
    same = {"n": torch.tensor(3), "a": w["a"].to(memory_format=torch.channels_last)}
    assert checkpoint.model_sha256(w) == checkpoint.model_sha256(same)
    for other in ({**w, "n": torch.tensor(4)}, {"b": w["a"], "n": w["n"]}, {**w, "a": w["a"].view(3, 2, 4, 4)}):
        assert checkpoint.model_sha256(other) != checkpoint.model_sha256(w)
