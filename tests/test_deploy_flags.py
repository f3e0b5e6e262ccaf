"""What deploy/up.py hands on to the programs that it starts, and the files of their identities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="identities need cryptography: sh requirements.sh deploy")

from deploy import identity
from deploy.up import portable
from fl.command_line import without
from fl.config import Config
from fl.errors import FlagError


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
    assert without(["out_dir", "name"], words) == ["--quiet", "--seed", "3"]


def test_a_servers_identity_is_not_replaced(tmp_path):
    identity.server(tmp_path, ["localhost"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError):
        identity.server(tmp_path, ["localhost"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_models_that_a_simulation_refuses_are_refused_on_a_network(tmp_path, monkeypatch):
    pytest.importorskip("flwr", reason="the network needs Flower: sh requirements.sh deploy")
    from deploy import server

    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "from torch import nn\n"
        "def net(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, classes))\n"
    )
    known = [{"n_k": 5, "shape": [1, 8, 8], "classes": 3, "data": k} for k in range(2)]
    plain = replace(Config(), model="own.py:net", num_clients=2, num_select_clients=2, device="cpu")
    with pytest.raises(FlagError, match=r"--model own.py:net: has buffers"):
        server.with_own_data(replace(plain, clip_norm=1.0, noise_multiplier=1.0), known)
    x, _ = server.with_own_data(replace(plain, algorithm="fsvrg", optimizer="sgd"), known)
    with pytest.raises(FlagError, match=r"--algorithm fsvrg: own.py:net has buffers"):
        server.check_trainable(x)
