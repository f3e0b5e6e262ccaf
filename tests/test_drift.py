"""Data that change over rounds: what clients hold in each, and that all that counts examples counts those."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from data import DRIFTS
from data.drift import grow, none, shift
from data.partition import Partition, iid
from fl.check import resolve
from fl.client import load_state
from fl.cohort import check_cohorts, cohort, seconds_needed
from fl.engines.stacked import Stacked
from fl.errors import FlagError
from fl.experiment import federated
from fl.state import Kept
from tests.rounds import run_rounds
from tests.test_engines import both
from tests.test_golden import close, config, ragged, run, task_of

CHANGING = [
    {"data_drift": "grow", "drift_share": 0.3, "drift_rounds": 3},
    {"data_drift": "shift", "drift_share": 0.5, "drift_rounds": 3},
]
LABELS = torch.arange(600) % 10


def whole(K=7):
    return iid(LABELS, K, 0)


def same(one, other):
    return torch.equal(one.indices, other.indices) and torch.equal(one.offsets, other.offsets)


def test_every_drift_is_tested():
    assert {"none", *(flags["data_drift"] for flags in CHANGING)} == set(DRIFTS)


@pytest.mark.parametrize("drift", [grow, shift])
def test_clients_hold_some_of_their_own_examples_in_order(drift):
    partition = whole()
    held = drift(partition, LABELS, 0, 0.07, 13)
    for t in range(30):
        now = held(t)
        assert len(now) == len(partition)
        for k in range(len(partition)):
            assert len(now[k]) >= 1
            assert set(now[k].tolist()) <= set(partition[k].tolist())
            assert torch.equal(now[k], now[k].sort().values)


def test_data_grow_at_an_even_pace_and_never_go():
    partition = Partition.from_owners(torch.arange(1000) // 100, 10)
    held = grow(partition, LABELS, 0, 0.07, 31)
    assert held(1).sizes.tolist() == [7] * 10  # 0.07 * 100 is 7.000000000000001
    assert held(11).sizes.tolist() == [37] * 10
    for t in range(1, 40):
        assert set(held(t).indices.tolist()) <= set(held(t + 1).indices.tolist())
    assert len(held(31).indices) < 1000
    assert same(held(32), partition)
    assert not torch.equal(held(1)[0], partition[0][:7])  # in an order that is drawn


def test_labels_take_turns_and_each_example_has_as_many_rounds_as_any():
    R, partition = 10, whole(6)
    held = shift(partition, LABELS, 0, 0.3, R)
    times = torch.zeros(600, dtype=torch.int64)
    for t in range(1, R + 1):
        assert held(t).sizes.tolist() == [30] * 6
        times[held(t).indices] += 1
        for k in range(6):
            there = set(LABELS[held(t)[k]].tolist())
            assert len(there) <= 5  # 30 neighbours of 100 in the order of ten labels
            assert len([label for label in there if (label + 1) % 10 not in there]) == 1  # 0 follows 9
    assert times.min() == times.max() == 3
    assert same(held(1), held(R + 1))
    shares = held(1).label_counts(LABELS, 10)
    assert len({tuple(row.nonzero().flatten().tolist()) for row in shares}) > 1  # clients are not in step
    assert not torch.equal(shares, held(4).label_counts(LABELS, 10))


@pytest.mark.parametrize("drift", [none, grow, shift])
def test_a_share_of_all_changes_nothing(drift):
    held = drift(whole(), LABELS, 0, 1.0, 5)
    assert all(same(held(t), whole()) for t in range(8))


def test_without_drift_a_round_has_the_very_partition():
    x = federated(config())
    assert x.partition_at(1) is x.partition_at(2) is x.partition
    assert x.round_start(1, x.w, Kept(), x.cohort(1)).partition is None


@pytest.mark.parametrize("flags", CHANGING)
@pytest.mark.parametrize("algorithm", ["fedavg", "fsvrg", "scaffold", "fednova", "fedadam"])
def test_every_engine_agrees(flags, algorithm):
    both(config(global_epoch=4, algorithm=algorithm, **flags), stack_size=2)


@pytest.mark.parametrize("flags", CHANGING)
@pytest.mark.parametrize("more", [{"batch_size": 0}, {"optimizer": "adam", "init_lr": 0.003, "num_select_clients": 2}])
def test_every_engine_agrees_whatever_the_batches(flags, more):
    both(config(global_epoch=5, **flags | more), stack_size=3)


@pytest.mark.parametrize("flags", CHANGING)
def test_all_clients_one_epoch_whole_batches_is_one_step_on_what_is_held(flags):
    """n_k and the weights of the mean are those of the round, or the gradient would be another one."""
    c = config(local_epoch=1, batch_size=0, global_epoch=4, **flags)
    task = task_of(c)
    w0 = task.w
    done = run(c, task, ragged())
    held = replace(task, partition=ragged()).partition_at
    assert len({len(held(t).indices) for t in range(1, 5)} | {0, 12}) > 2
    w = w0
    for t in range(1, 5):
        load_state(task.model, w)
        x, y = task.data.batch(task.data.train, held(t).indices)
        task.model.zero_grad()
        F.cross_entropy(task.model(x), y).backward()
        w = {name: p.detach() - 0.1 * p.grad for name, p in task.model.named_parameters()}
        close(done[t].w, w)
        assert done[t].record["examples"] == len(held(t).indices)


def test_what_is_grown_goes_on_as_if_it_had_always_been_there():
    """From round R + 1 on, a round is the same, up to rounding, as one without drift from the same model."""
    grown, plain = config(global_epoch=4, **CHANGING[0]), config(global_epoch=4)
    task = task_of(grown)
    rounds = run(grown, task, ragged())
    engine = Stacked(task.model, task.data, ragged(), plain)
    for partial, start in ((False, rounds[3]), (True, rounds[2])):
        again = list(run_rounds(task, ragged(), engine, plain, start=start))
        after = rounds[start.t + 1]
        assert (again[0].record["examples"] != after.record["examples"]) == partial
        if not partial:
            close(again[0].w, after.w)


def test_simulated_time_is_that_of_the_examples_held():
    c = resolve({"num_clients": 10, "num_select_clients": 4, "local_epoch": 1, "examples_per_second": 1.0,
                 "speed_spread": 0.0, "round_deadline": 20.0})  # fmt: skip
    partition = iid(LABELS[:100], 10, 0)
    held = grow(partition, LABELS, 0, 0.5, 5)
    assert cohort(c, held(1), 1, 0.0, (0, 0)).seconds == seconds_needed(c, 0, 5, (0, 0)) == 5
    assert cohort(c, held(6), 6, 0.0, (0, 0)).seconds == 10
    late = replace(c, round_deadline=7.0)
    check_cohorts(late, held(1), (0, 0))
    with pytest.raises(FlagError, match="--round_deadline 7"):
        check_cohorts(late, partition, (0, 0))


@pytest.mark.parametrize(
    "flags",
    [
        "--data_drift grow --drift_share 0.1 --drift_rounds 4 --examples_per_second 10 --dropout_rate 0.2",
        "--data_drift shift --algorithm scaffold --partition dirichlet",
    ],
)
def test_stopped_and_resumed_or_in_two_processes_gives_the_same_bits(flags, command, same_anyhow):
    whole = same_anyhow(f"{flags} --global_epoch 5")
    assert whole.sha256 != command("federated", "--global_epoch 5").sha256


def test_the_baseline_takes_no_notice(command):
    plain, told = (command("baseline", flags) for flags in ("", "--data_drift grow"))
    assert plain.sha256 == told.sha256
    assert "--data_drift: does nothing in run_baseline.py" in told.err


def test_the_plan_counts_the_steps_of_what_is_held(command):
    """Two clients of 4 with 64 examples in all and B = 5, E = 2, over three rounds."""
    plan = command("federated", "--dry_run --data_drift grow --drift_share 0.3 --drift_rounds 2").out
    done = command("federated", "--data_drift grow --drift_share 0.3 --drift_rounds 2")
    steps = sum(record["local_steps"] for record in done.records)
    assert f"{steps} gradient steps" in plan
    assert "grow: a share of 0.3, 2 rounds" in plan
    assert steps < sum(record["local_steps"] for record in command("federated").records)


def test_the_change_is_drawn(command, real_pictures):
    done = command("federated", "--data_drift shift")
    assert (done.folder / "drift.png").read_bytes().startswith(b"\x89PNG")
    assert not (command("federated", "--global_epoch 1").folder / "drift.png").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--data_drift shrink", "--data_drift shrink: expected one of none, grow, shift"),
        ("--drift_share 0.5", "--drift_share 0.5: needs --data_drift grow or shift"),
        ("--drift_rounds 5", "--drift_rounds 5: needs --data_drift grow or shift"),
        ("--data_drift grow --drift_share 0", "--drift_share 0: expected a number in (0, 1]"),
        ("--data_drift shift --drift_rounds 0", "--drift_rounds 0: expected an integer from 1 to 1,000,000,000"),
    ],
)
def test_flags_that_do_not_fit_are_refused(more, words, command):
    done = command("federated", more)
    assert done.code == 2
    assert words in done.err
    assert not done.folder.exists()
