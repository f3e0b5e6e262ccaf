"""Devices that come and go: who is called, what becomes of them, and that all of it follows from the seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from data.partition import iid
from fl.check import resolve
from fl.cohort import Cohort, cohort, seconds_needed
from fl.devices import DAY, HOUR, devices_of, eligible, fate_of
from fl.experiment import federated
from fl.rng import select_clients
from tests.test_engines import both
from tests.test_golden import config

TRANSFER = (400_000, 400_000)
PHONES = {"decline_rate": 0.1, "dropout_rate": 0.2, "over_select": 1.3, "min_reports": 3, "straggler_rate": 0.3,
          "straggler_epochs": 1, "examples_per_second": 100.0, "upload_mbps": 1.0, "download_mbps": 8.0,
          "charging": "0.9,0.2", "round_deadline": 300.0}  # fmt: skip


def flags(**more):
    return resolve({"num_clients": 60, "num_select_clients": 10, "local_epoch": 2} | more)


def partition_of(c):
    return iid(torch.zeros(20 * c.num_clients, dtype=torch.int64), c.num_clients, c.seed)


def cohorts(c, rounds=200):
    clock, partition = 0.0, partition_of(c)
    for t in range(1, rounds + 1):
        S_t = cohort(c, partition, t, clock, TRANSFER)
        clock += S_t.seconds or 0.0
        yield S_t


def test_with_everything_off_a_cohort_is_that_of_the_paper():
    c = flags()
    for t, S_t in enumerate(cohorts(c, 20), 1):
        called = select_clients(c.seed, t, 60, 10)
        assert S_t == Cohort(called, called)
        assert S_t.record() == {}


def test_a_tenth_more_than_a_hundred_is_a_hundred_and_ten():
    for m, more, expected in ((100, 1.1, 110), (50, 1.1, 55), (10, 1.25, 13)):
        (S_t,) = cohorts(flags(num_clients=500, num_select_clients=m, over_select=more), 1)
        assert len(S_t.called) == expected


def test_everyone_who_is_called_has_one_fate():
    for S_t in cohorts(flags(**PHONES)):
        parts = [S_t.reporting, S_t.declined, S_t.dropped, S_t.late]
        assert all(list(part) == sorted(part) for part in parts)
        everyone = sorted(k for part in parts for k in part)
        assert len(set(everyone)) == len(everyone)
        assert S_t.abandoned or everyone == list(S_t.called)
        assert len(S_t.called) <= 13
        assert not S_t.reporting if S_t.abandoned else 3 <= len(S_t.reporting) <= 10
        assert set(S_t.epochs) <= set(S_t.reporting)


def test_fates_come_as_often_as_the_rates_say():
    """2,000 calls, seed 0; four standard deviations are 0.036 for a rate of 0.2."""
    c = flags(decline_rate=0.1, dropout_rate=0.2, straggler_rate=0.3, straggler_epochs=1)
    met = list(cohorts(c))
    called = sum(len(S_t.called) for S_t in met)
    declined, dropped = (sum(len(getattr(S_t, fate)) for S_t in met) for fate in ("declined", "dropped"))
    slow = sum(len(S_t.epochs) for S_t in met)
    assert called == 2000
    assert declined / called == pytest.approx(0.1, abs=0.027)
    assert dropped / (called - declined) == pytest.approx(0.2, abs=0.038)
    assert slow / sum(len(S_t.reporting) for S_t in met) == pytest.approx(0.3, abs=0.049)


def test_one_rate_does_not_move_the_other_fates():
    few, many = (flags(decline_rate=rate, dropout_rate=0.2) for rate in (0.0, 0.5))
    for t in range(1, 50):
        for k in range(20):
            one, other = fate_of(few, t, k), fate_of(many, t, k)
            assert one[1:] == other[1:]


def test_a_round_ends_with_the_fastest_m_and_the_others_are_late():
    c = flags(over_select=1.5, examples_per_second=10.0, upload_mbps=1.0)
    partition = partition_of(c)
    S_t = cohort(c, partition, 1, 0.0, TRANSFER)
    needed = {k: seconds_needed(c, k, 2 * 20, TRANSFER) for k in S_t.called}
    assert len(S_t.called) == 15
    assert set(S_t.reporting) == set(sorted(needed, key=needed.__getitem__)[:10])
    assert S_t.seconds == max(needed[k] for k in S_t.reporting)
    cut = cohort(replace(c, round_deadline=sorted(needed.values())[6]), partition, 1, 0.0, TRANSFER)
    assert len(cut.reporting) == 7
    assert cut.seconds == sorted(needed.values())[6]


def test_equally_fast_clients_are_late_by_lot_and_not_by_number():
    late = [k for S_t in cohorts(flags(over_select=2.0)) for k in S_t.late]
    assert len(late) == 2000
    assert sum(late) / len(late) == pytest.approx(29.5, abs=4 * 17.3 / 2000**0.5)


def test_a_slow_client_takes_longer_or_does_less():
    c = flags(straggler_rate=1.0, straggler_slowdown=4.0, examples_per_second=10.0, speed_spread=0.0)
    assert cohort(c, partition_of(c), 1, 0.0, TRANSFER).seconds == pytest.approx(4 * 2 * 20 / 10)
    less = replace(c, straggler_epochs=1)
    assert cohort(less, partition_of(c), 1, 0.0, TRANSFER).seconds == pytest.approx(4 * 1 * 20 / 10)


def test_devices_are_eligible_by_night_and_by_day_as_the_flags_say():
    c = flags(num_clients=5000, charging="0.8,0.5", idle="0.9,0.2")
    ahead = devices_of(c).ahead
    for clock in (0.0, 9.5 * HOUR, 3 * DAY + 17 * HOUR):
        hour = (clock + ahead) % DAY // HOUR
        night = (hour >= 22) | (hour < 6)
        there = eligible(c, clock)
        assert there[night].double().mean() == pytest.approx(0.72, abs=4 * (0.72 * 0.28 / night.sum().item()) ** 0.5)
        assert there[~night].double().mean() == pytest.approx(0.10, abs=4 * (0.1 * 0.9 / 3000) ** 0.5)
    assert torch.equal(eligible(c, 10.0), eligible(c, HOUR - 1))
    assert not torch.equal(eligible(c, 10.0), eligible(c, HOUR + 1))


def test_a_server_waits_until_enough_devices_are_eligible():
    c = flags(num_select_clients=20, charging="1,0", over_select=1.5)
    for S_t in cohorts(c, 20):
        assert 20 <= len(S_t.called) <= 30
    assert any(S_t.seconds for S_t in cohorts(c, 20))


def test_partial_work_is_the_same_on_every_engine():
    both(config(local_epoch=3, straggler_rate=0.6, straggler_epochs=1, algorithm="fednova"), stack_size=3)
    both(config(local_epoch=3, straggler_rate=0.6, straggler_epochs=2, optimizer="adam", init_lr=0.01), stack_size=2)


@pytest.mark.parametrize("algorithm", ["fedavg", "fsvrg", "scaffold", "fednova", "fedadam"])
def test_an_abandoned_round_leaves_the_model_as_it_is(algorithm, command):
    done = command("federated", f"--algorithm {algorithm} --dropout_rate 0.8 --min_reports 2 --global_epoch 1")
    start = command("federated", f"--algorithm {algorithm} --global_epoch 0")
    assert done.code == 0, done.err
    assert done.records[1]["abandoned"] is True
    assert done.records[1]["clients"] == []
    assert done.records[1]["uplink_bytes"] == 0 < done.records[1]["downlink_bytes"]
    assert done.sha256 == start.sha256


LIVELY = "--decline_rate 0.2 --dropout_rate 0.2 --over_select 2 --straggler_rate 0.5 --straggler_epochs 1 " \
    "--examples_per_second 10 --charging 1,0.4 --global_epoch 6"  # fmt: skip


def test_stopped_and_resumed_or_in_two_processes_gives_the_same_bits(same_anyhow):
    whole = same_anyhow(LIVELY)
    assert all("simulated_seconds" in record for record in whole.untimed[1:])


def test_the_record_says_what_became_of_everyone(command):
    done = command("federated", LIVELY)
    x = federated(resolve({"dataset": "tiny", "model": "logistic", "num_clients": 4, "num_select_clients": 2}))
    for record in done.records[1:]:
        got_it = len(record.get("called", [0, 0])) - len(record.get("declined", []))
        assert record["downlink_bytes"] >= record["uplink_bytes"] == len(record["clients"]) * x.model_bytes
        assert "called" not in record or record["downlink_bytes"] == got_it * x.model_bytes
        assert record["simulated_seconds"] >= 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--dropout_rate 1", "--dropout_rate 1: expected a number in [0, 1)"),
        ("--charging 0,0", "--min_reports 1: 0 of the 4 clients are eligible at the best hour"),
        ("--charging 0.5", "--charging 0.5: expected two probabilities"),
        ("--min_reports 3", "--min_reports 3: expected at most --num_select_clients, which is 2"),
        ("--round_deadline 5", "--round_deadline 5.0: needs --examples_per_second"),
        ("--round_deadline 5 --examples_per_second 0.1", "--round_deadline 5: the fastest 1 clients need"),
        ("--straggler_epochs 1", "--straggler_epochs 1: needs a --straggler_rate"),
    ],
)
def test_a_cohort_that_can_never_be_met_is_refused(more, words, command):
    done = command("federated", more)
    assert done.code == 2
    assert words in done.err
    assert not done.folder.exists()


def test_the_fates_are_drawn(command, real_pictures):
    done = command("federated", LIVELY)
    assert (done.folder / "devices.png").read_bytes().startswith(b"\x89PNG")
    assert done.summary["simulated_seconds"] > 0
    assert done.summary["downlink_bytes"] == sum(record["downlink_bytes"] for record in done.records)
