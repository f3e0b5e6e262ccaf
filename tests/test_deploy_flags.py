"""What deploy/up.py hands on to the programs that it starts, and the files of their identities."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="identities need cryptography: sh requirements.sh deploy")

from deploy import identity
from deploy.up import portable, without


def test_flags_mean_the_same_in_another_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("some.txt").write_text("--num_clients 3 --model own.py:net")
    words = portable(["@some.txt", "--transform=own.py:half", "--init_lr", "0.1", "--data_dir", "a=b.py:c"])
    assert words == [
        "--num_clients", "3", "--model", f"{tmp_path}/own.py:net", f"--transform={tmp_path}/own.py:half",
        "--init_lr", "0.1", "--data_dir", f"{tmp_path}/a=b.py:c",
    ]  # fmt: skip


def test_flags_that_name_a_folder_are_left_out_with_their_values():
    words = ["--out_dir", "runs", "--name=x", "--quiet", "--name", "y", "--seed", "3"]
    assert without(words, "--out_dir", "--name") == ["--quiet", "--seed", "3"]


def test_a_servers_identity_is_not_replaced(tmp_path):
    identity.server(tmp_path, ["localhost"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError):
        identity.server(tmp_path, ["localhost"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
