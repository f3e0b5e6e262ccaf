"""What --engine auto makes of a run: how many processes, and how many threads each."""

from __future__ import annotations

import json

import pytest
import torch

from data.dataset import Dataset, Split
from data.partition import Partition
from fl.check import resolve
from fl.engines import choose
from fl.errors import FlagError
from fl.experiment import Experiment
from fl.names import named
from fl.processes.workers import torchrun_device

PAPER = {"num_clients": 100, "num_select_clients": 10, "local_epoch": 1, "batch_size": 10, "optimizer": "sgd"}


@pytest.fixture
def _two_threads(monkeypatch):
    monkeypatch.setattr("fl.engines.cores", lambda: 2)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def chosen(device="cpu", **flags):
    """What `choose` makes of the flags on as many blank images as MNIST has."""
    c = resolve(flags)
    images = Split(torch.zeros(1, 1, 28, 28, dtype=torch.uint8).expand(60_000, -1, -1, -1), torch.zeros(60_000).long())
    data = Dataset("blank", images, images, 10, mean=0.5, std=0.25, source="made up")
    model = named("model", c.model)(data.shape, data.classes)
    partition = Partition.from_owners(torch.arange(60_000) % c.num_clients, c.num_clients)
    return choose(Experiment(c, data, data, model, torch.device(device), partition))


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize(
    ("flags", "workers"),
    [
        ({}, 2),  # the default run, whose few parameters do many multiply-adds
        ({"model": "gn_cnn"}, 2),
        ({"global_epoch": 1, "local_epoch": 1, "num_select_clients": 1}, 1),  # a second's work
        (PAPER | {"model": "cnn", "global_epoch": 1}, 2),
        (PAPER | {"model": "2nn", "global_epoch": 100}, 2),
        (PAPER | {"model": "2nn", "global_epoch": 10}, 1),
        (PAPER | {"model": "logistic", "num_clients": 1000, "global_epoch": 100_000}, 1),  # long, of tiny rounds
        (PAPER | {"model": "cnn", "global_epoch": 1000, "engine": "stacked"}, 1),
        (PAPER | {"model": "logistic", "global_epoch": 1, "engine": "distributed"}, 2),
        (PAPER | {"model": "logistic", "global_epoch": 1, "workers": 3}, 3),
        ({"num_select_clients": 1}, 1),
    ],
)
def test_processes_are_taken_for_work_that_is_worth_it(flags, workers):
    assert chosen(**flags) == ("stacked", workers)


def test_one_core_is_one_process():
    assert chosen() == ("stacked", 1)


def test_a_gpu_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert chosen("cuda", global_epoch=50) == ("stacked", 3)
    assert chosen("cuda", global_epoch=1) == ("stacked", 1)
    assert chosen("cuda", workers=3) == ("stacked", 3)
    with pytest.raises(FlagError, match="--workers 4: each takes a GPU, and there are 3"):
        chosen("cuda", workers=4)


def test_torchrun_starts_no_more_processes_than_there_are_gpus(monkeypatch):
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for local, device, expected in (("2", "cuda", "cuda:2"), ("3", "cpu", "cpu"), ("0", "cuda:1", "cuda:1")):
        monkeypatch.setenv("LOCAL_RANK", local)
        assert torchrun_device(resolve({"device": device})) == torch.device(expected)
    for local, device, gpus in (("3", "cuda", 3), ("1", "cuda:1", 1)):
        monkeypatch.setenv("LOCAL_RANK", local)
        with pytest.raises(FlagError, match=f"process {int(local) + 1} .* each takes one of {gpus};"):
            torchrun_device(resolve({"device": device}))


@pytest.mark.usefixtures("_two_threads")
def test_no_more_processes_than_a_containers_quota_is_worth(monkeypatch):
    monkeypatch.setattr("fl.engines.cores", lambda: 1)
    assert chosen(engine="distributed") == ("stacked", 1)


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize(
    ("flags", "threads"),
    [("", 1), ("--engine stacked", 2), ("--engine sequential", 2), ("--keep_optimizer_state", 2)],
)
def test_auto_trains_on_one_thread_a_process(command, flags, threads):
    done = command("federated", flags)
    assert json.loads((done.folder / "environment.json").read_text())["threads"] == threads
