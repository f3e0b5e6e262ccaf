"""--dry_run says how long the run will take, from a few steps of it."""

from __future__ import annotations

import re

import pytest
import torch

from data.partition import Partition
from fl.estimate import cut, rough


@pytest.mark.parametrize("flags", ["", "--engine sequential", "--batch_size 0", "--algorithm fsvrg --init_lr 1",
                                   "--partition quantity", "--workers 2 --engine distributed"])  # fmt: skip
def test_a_dry_run_says_how_long(flags, command):
    done = command("federated", f"{flags} --dry_run")
    assert done.code == 0
    time = r"^time +about [\d.]+ (seconds?|minutes): [\d.e+-]+ ms a step, [\d.e+-]+ s an evaluation"
    assert re.search(time, done.out, re.MULTILINE)
    assert not done.folder.exists()


def test_a_dry_run_of_the_baseline_says_how_long(command):
    done = command("baseline", "--dry_run")
    assert re.search(r"^time +about [\d.]+ seconds?: ", done.out, re.MULTILINE)


def test_more_rounds_take_longer(command, monkeypatch):
    monkeypatch.setattr("fl.plan.seconds_a_step", lambda *_: 1e-3)
    monkeypatch.setattr("fl.plan.seconds_an_evaluation", lambda *_: 1e-3)

    def seconds(T):
        out = command("federated", f"--dry_run --global_epoch {T} --eval_every 1000000").out
        number, unit = re.search(r"^time +about ([\d.]+) (\w+)", out, re.MULTILINE).groups()
        return float(number) * {"second": 1, "seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}[unit]

    assert seconds(1_000_000) > 100 * seconds(1_000)


def test_cut_leaves_the_first_examples_of_the_clients_that_are_timed():
    partition = Partition.from_owners(torch.tensor([0, 1, 1, 2, 2, 2, 1, 1]), 3)
    short = cut(partition, [1], 2)
    assert [short[k].tolist() for k in range(3)] == [[0], [1, 2], [3]]


def test_rough():
    assert [rough(s) for s in (0.2, 59, 130, 6400, 7300, 200_000, 1e8)] == [
        "about 1 second", "about 59 seconds", "about 2.2 minutes", "about 110 minutes", "about 2 hours",
        "about 2.3 days", "about 1,200 days",
    ]  # fmt: skip
