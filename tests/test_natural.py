"""--partition natural: the number of clients is known only once the data set has been read."""

import json

import pytest
import torch

import run_federated
from data.dataset import Dataset
from tests.conftest import EITHER
from tests.tiny import tiny


@pytest.fixture
def natural(tmp_path, capsys, monkeypatch):
    """natural(flags): a run on the tiny data set, which belongs to five clients. Gives code, output and folder."""
    import tests.tiny

    def with_owners(data_dir) -> Dataset:
        data = tiny(data_dir)
        object.__setattr__(data, "clients", torch.arange(len(data.train)) % 5)
        return data

    monkeypatch.setattr(tests.tiny, "tiny", with_owners)

    def run(flags, folder="run"):
        argv = f"{EITHER} --partition natural --global_epoch 3 --run_dir {tmp_path / folder} {flags}".split()
        capsys.readouterr()
        code = run_federated.run(argv)
        return code, *capsys.readouterr(), tmp_path / folder

    return run


@pytest.mark.parametrize(("flags", "m"), [("", 4), ("--client_fraction 0.4", 2), ("--num_select_clients 5", 5)])
def test_the_data_set_says_how_many_clients_there_are(flags, m, natural):
    code, _, err, folder = natural(flags)
    assert code == 0, err
    recorded = json.loads((folder / "config.json").read_text())
    assert (recorded["num_clients"], recorded["num_select_clients"]) == (5, m)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert len(last["clients"]) == m


def test_a_run_over_natural_clients_resumes_to_the_same_bits(natural):
    code, _, err, whole = natural("--client_fraction 0.4")
    assert code == 0, err
    assert natural("--client_fraction 0.4 --global_epoch 1", "cut")[0] == 0
    code = run_federated.run(["--resume", "--run_dir", str(whole.parent / "cut"), "--global_epoch", "3"])
    assert code == 0
    hashes = [json.loads((whole.parent / name / "summary.json").read_text())["model_sha256"] for name in ("run", "cut")]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--num_clients 4", "--num_clients 4: the data set has 5 clients of its own"),
        ("--num_select_clients 6", "--num_select_clients 6: expected at most --num_clients, which is 5"),
        ("--aggregate krum --byzantine 2", "--byzantine 2: krum needs at least"),
    ],
)
def test_what_so_many_clients_do_not_allow_is_refused(flags, words, natural):
    code, _, err, folder = natural(flags)
    assert code == 2
    assert words in err
    assert not folder.exists()
