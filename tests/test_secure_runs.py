"""Secure aggregation, runs: the mean, what the server gets to see, and rounds in which clients vanish."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

pytest.importorskip("cryptography", reason="needs the package of sh requirements.sh secure")

from fl.aggregates.secure.aggregate import Secure
from fl.aggregates.secure.fixed_point import scale_of
from fl.aggregates.secure.server import Server
from fl.aggregates.secure.shamir import SHARE_BYTES
from fl.aggregates.secure.wire import bytes_of_one
from fl.check import resolve
from fl.engines.sequential import Sequential
from fl.experiment import federated
from fl.flags.security import fewest_reports, threshold
from fl.group import Group
from fl.processes.workers import start
from fl.state import Kept, Report, Update
from tests.conftest import ROOT
from tests.rounds import run_rounds
from tests.test_engines import both
from tests.test_golden import close, config, ragged, run, task_of
from tests.test_secure import SUSPICIOUS, suspicion

OWN = ROOT / "tests" / "own.py"
accounted = pytest.mark.skipif(find_spec("dp_accounting") is None, reason="needs dp-accounting: sh requirements.sh dp")


def secured(**flags):
    return config(**{"secure_aggregation": True, "secure_threshold": 0.5} | flags)


def a_round(c, dropped=()):
    """A round of the ragged clients, and updates of all but the dropped ones: models far and near."""
    task = replace(task_of(c), partition=ragged(), mask_key=os.urandom(32))
    S_t = task.cohort(1)
    now = task.round_start(1, task.w, Kept(), S_t._replace(reporting=[k for k in S_t.called if k not in dropped]))
    generator = torch.Generator().manual_seed(3)
    updates = [
        Update(
            [Report(k, n_k, 0.0, n_k, 1)],
            {name: w + torch.randn(1, *w.shape, generator=generator, dtype=w.dtype) for name, w in now.w.items()},
        )
        for k, n_k in now.sizes.items()
    ]
    return now, updates


@pytest.mark.parametrize("dropped", [(), (0,), (2,)])
def test_the_mean_is_the_plain_one_and_has_the_same_bits_in_any_order_and_with_any_keys(dropped):
    now, updates = a_round(secured(), dropped)
    made = []
    for order, key in ((updates, now.mask_key), (updates[::-1], now.mask_key), (updates, os.urandom(32))):
        secure = Secure(replace(now, mask_key=key))
        for update in order:
            secure.add(update, [update.reports[0].n_k])
        made.append(secure.result(-1.0))  # it knows the sum of the weights from the masked vectors
    n = sum(now.sizes.values())
    for name, w in made[0].items():
        assert all(torch.equal(w, other[name]) for other in made[1:])
        exact = sum(update.reports[0].n_k / n * update.w[name][0] for update in updates)
        torch.testing.assert_close(w, exact, rtol=0, atol=2.0 ** -(scale_of(12) + 1) + 1e-14)


def test_the_server_gets_nothing_but_masked_vectors(monkeypatch):
    """Two runs that differ in their keys alone: all that the server gets is different, and what comes out is the same.

    The nine masked vectors make nine false alarms in a million runs.
    """
    seen: list[list] = []

    def watch(name, plain):
        def watched(server, *args):
            seen.append([arg.copy() if isinstance(arg, np.ndarray) else arg for arg in args])
            return plain(server, *args)

        monkeypatch.setattr(Server, name, watched)

    for name in ("advertised", "shared", "collect", "unmasked"):
        watch(name, getattr(Server, name))
    one, other = (run(secured(), task_of(secured()), ragged()) for _ in range(2))
    assert len(seen) == 2 * 3 * (1 + 1 + 3 + 1)
    seen, others = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    for args, again in zip(seen, others, strict=True):
        if len(args) == 2:
            assert args[0] == again[0]  # the client's number
            assert suspicion(args[1]) < SUSPICIOUS
            assert not (args[1] == again[1]).any()
        else:
            for k, message in args[0].items():
                assert len(message) == len(again[0][k])
                assert not set(blocks(message)) & set(blocks(again[0][k]))
    assert all(torch.equal(w, other[-1].w[name]) for name, w in one[-1].w.items())


def blocks(message):
    """What is long enough to be a key or a share."""
    return [message[i : i + 32] for i in range(len(message) - 31)]


def test_it_is_fedavg_up_to_the_coding():
    plain, secure = (run(c, task_of(c), ragged()) for c in (config(), secured()))
    close(plain[-1].w, secure[-1].w, 1e-11)
    assert plain[-1].record["train_loss"] == pytest.approx(secure[-1].record["train_loss"], rel=1e-11)
    noted = {"secure_bytes", "secure_seconds", "downlink_bytes", "uplink_bytes"}
    assert plain[-1].record.keys() - noted == secure[-1].record.keys() - noted
    assert "secure_bytes" not in plain[-1].record


def test_every_engine_agrees_whoever_vanishes():
    c = secured(dropout_rate=0.4, global_epoch=8)
    fates = [record.record for record in run(c, task_of(c), ragged())]
    assert any("dropped" in record and "abandoned" not in record for record in fates)  # or there is less to see
    assert any("abandoned" in record for record in fates)
    both(c, stack_size=2)
    both(secured(algorithm="fedadam", server_lr=0.1), stack_size=3)
    both(secured(clip_norm=0.05), stack_size=3)


def rounds_of(c, group):
    return list(run_rounds(task := task_of(c), ragged(), Sequential(task.model, task.data, ragged(), c), c, group))


def test_workers_have_the_same_bits_and_bytes():
    c = secured(dropout_rate=0.4, global_epoch=8, engine="distributed")
    with start(c, 2, rounds_of) as group:
        together = rounds_of(c, group)
    for one, other in zip(together, rounds_of(c, Group()), strict=True):
        assert all(torch.equal(w, other.w[name]) for name, w in one.w.items())
        for key in ("clients", "downlink_bytes", "uplink_bytes", "secure_bytes"):
            assert one.record.get(key) == other.record.get(key)


class Spoiling(Sequential):
    """In round 2 the updates of some clients are no numbers."""

    spoilt = ()

    def train(self, clients, now, tell):
        for update in super().train(clients, now, tell):
            if now.t == 2 and update.reports[0].client in self.spoilt:
                next(iter(update.w.values())).fill_(math.nan)
            yield update


def spoilt(c, *clients):
    engine = Spoiling((task := task_of(c)).model, task.data, ragged(), c)
    engine.spoilt = clients
    return list(run_rounds(task, ragged(), engine, c))


def test_a_client_that_does_not_send_what_is_no_number_has_vanished():
    plain, secure = (spoilt(c, 1) for c in (config(), secured()))
    assert plain[2].record["rejected"] == secure[2].record["rejected"] == {1: "not finite"}
    close(plain[-1].w, secure[-1].w, 1e-11)
    vector = 8 * (sum(w.numel() for w in plain[0].w.values()) + 1)
    assert secure[1].record["uplink_bytes"] - secure[2].record["uplink_bytes"] == vector + 3 * SHARE_BYTES


def test_if_too_few_are_left_nobodys_update_counts():
    rounds = spoilt(secured(), 0, 1)
    assert rounds[2].record["abandoned"] is True
    assert all(torch.equal(w, rounds[1].w[name]) for name, w in rounds[2].w.items())
    rounds = spoilt(secured(attack="sign_flip", attackers=0.4, attack_scale=1.0, algorithm="fedavgm"), 0, 1)
    assert rounds[2].record["rejected"] == {0: "not finite", 1: "not finite", 2: "too few others"}
    assert rounds[2].record["clients"] == []
    assert all(torch.equal(w, rounds[1].w[name]) for name, w in rounds[2].w.items())
    assert not torch.equal(*(next(iter(rounds[t].w.values())) for t in (2, 3)))


def test_below_the_threshold_a_round_is_abandoned(command):
    done = command("federated", "--secure_aggregation --num_select_clients 4 --dropout_rate 0.8 --global_epoch 2")
    assert done.code == 0
    assert [record.get("abandoned") for record in done.records] == [None, True, True]
    untrained = command("federated", "--num_select_clients 4 --global_epoch 0")
    assert done.sha256 == untrained.sha256
    x = federated(resolve({"dataset": "tiny", "model": "logistic", "num_clients": 4}))
    # Keys and letters were exchanged by all four before any of them vanished.
    letters = 4 * 3 * (4 + 2 * SHARE_BYTES + 16)
    assert done.records[1]["uplink_bytes"] == 4 * 64 + letters
    assert done.records[1]["downlink_bytes"] == 4 * x.model_bytes + 4 * 3 * (4 + 64) + letters


def test_how_many_must_report():
    c = resolve({"secure_aggregation": True})
    assert [threshold(c, n) for n in (0, 1, 2, 3, 4, 6, 10, 50)] == [0, 1, 2, 3, 3, 5, 7, 34]
    half = replace(c, secure_threshold=0.5)
    assert [threshold(half, n) for n in (2, 3, 4, 10)] == [2, 2, 3, 6]  # always the majority
    assert [fewest_reports(half, n) for n in (0, 1, 2, 10)] == [2, 2, 2, 6]
    assert fewest_reports(replace(c, secure_aggregation=False), 10) == 0


def test_one_client_alone_is_never_unmasked(command):
    """With Poisson sampling it may be the only one that was drawn."""
    flags = "--secure_aggregation --sampling poisson --num_clients 6 --num_select_clients 2 --global_epoch 12"
    plain = command("federated", flags.replace("--secure_aggregation", ""))
    records = command("federated", flags).records
    alone = [len(record["clients"]) == 1 for record in plain.records]
    assert any(alone)
    for record, is_alone in zip(records[1:], alone[1:], strict=True):
        assert len(record["clients"]) != 1
        assert not is_alone or record["abandoned"]


def test_the_record_counts_the_bytes(command):
    done = command("federated", "--secure_aggregation --num_select_clients 3 --global_epoch 1")
    x = federated(resolve({"dataset": "tiny", "model": "logistic", "num_clients": 4, "num_select_clients": 3}))
    down, up = bytes_of_one(3, x.parameters)
    record = done.records[1]
    assert record["downlink_bytes"] == 3 * (x.model_bytes + down)
    assert record["uplink_bytes"] == 3 * up
    assert record["secure_bytes"] == 3 * (down + up - 8 * (x.parameters + 1))
    assert 0 < record["secure_seconds"] < record["round_seconds"]
    assert done.summary["secure_bytes"] == record["secure_bytes"]
    assert up == 64 + 2 * (4 + 82) + 8 * (x.parameters + 1) + 3 * 33


def test_the_simulated_clock_knows_the_bytes(command):
    slow, quick = (
        command("federated", f"{flag} --upload_mbps 0.001 --speed_spread 0 --global_epoch 1").records[1]
        for flag in ("--secure_aggregation", "")
    )
    assert slow["uplink_bytes"] / quick["uplink_bytes"] == pytest.approx(
        slow["simulated_seconds"] / quick["simulated_seconds"]
    )


def test_stopped_and_resumed_gives_the_same_bits(same_anyhow):
    """Though its keys are others."""
    flags = "--secure_aggregation --secure_threshold 0.5 --num_select_clients 3 --dropout_rate 0.2 --global_epoch 5"
    assert any("dropped" in record for record in same_anyhow(flags, workers=False).records)


@accounted
def test_the_server_adds_its_noise_to_the_sum(command):
    flags = "--clip_norm 0.5 --noise_multiplier 0.1 --insecure_noise --model 2nn"
    plain, secure = command("federated", flags), command("federated", f"{flags} --secure_aggregation")
    assert secure.code == 0, secure.err
    assert secure.records[-1]["epsilon"] == plain.records[-1]["epsilon"]
    for one, other in zip(plain.records, secure.records, strict=True):
        assert one["test_loss"] == pytest.approx(other["test_loss"], rel=1e-5)
    assert command("federated", "--clip_norm 0.5 --local_noise 0.1 --secure_aggregation").code == 0


def test_the_plan_says_what_must_report(command):
    out = command("federated", "--secure_aggregation --num_select_clients 3 --dry_run").out
    assert "3 of 3 must report; values of the mean are coded to within" in out
    assert "must report" not in command("federated", "--dry_run").out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--aggregate median", "--aggregate median: is no sum and looks at single updates, which --secure_aggregation"),
        ("--aggregate trimmed_mean --trim 0", "--aggregate trimmed_mean: is no sum"),
        ("--algorithm scaffold", "--algorithm scaffold: makes its control variates out of each client's own update"),
        ("--algorithm fednova", "--algorithm fednova: weighs each update by the client's examples and steps, but"),
        (f"--algorithm {OWN}:prox", "own.py:prox: may use more than the mean, but --secure_aggregation"),
        ("--compress sign", "--compress sign: makes updates small, but a masked update has all its values"),
        ("--personal_layers 1", "--personal_layers 1: are not sent, but --secure_aggregation masks and sends all"),
        ("--num_select_clients 1", "--num_select_clients 1: the sum of one update is that update; expected at least 2"),
        ("--over_select 2", "--over_select 2: calls 4 clients, of whom 3 must report, and a round is over with 2"),
        ("--secure_threshold 1", "--secure_threshold 1: expected a number in [0.5, 1)"),
        ("--secure_threshold 0.4", "--secure_threshold 0.4: expected a number in [0.5, 1)"),
        ("--idle 0.1,0.1", "--secure_aggregation: 0.4 of the 4 clients are eligible at the best hour"),
        ("--upload_mbps 0.001 --round_deadline 1", "--round_deadline 1: the fastest 2 clients need"),
    ],
)
def test_what_cannot_be_combined_is_refused(more, words, command):
    done = command("federated", f"--secure_aggregation {more}")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert words in done.err
    assert not done.folder.exists()


def test_a_model_with_buffers_is_refused(command, tmp_path):
    file = tmp_path / "normed.py"
    file.write_text(
        "from torch import nn\n\n\n"
        "def net(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, classes))\n"
    )
    done = command("federated", f"--model {file}:net --secure_aggregation")
    assert done.code == 2
    assert "net: has buffers (1.num_batches_tracked, 1.running_mean), which --secure_aggregation cannot" in done.err


@accounted
@pytest.mark.parametrize(
    ("more", "flag"),
    [("--dropout_rate 0.1", "--dropout_rate 0.1"), ("--sampling poisson", "--sampling poisson"),
     ("--over_select 1.5", "--over_select 1.5"), ("--decline_rate 0.5", "--decline_rate 0.5")],
)  # fmt: skip
def test_with_noise_no_round_may_be_abandoned(more, flag, command):
    done = command(
        "federated", f"--secure_aggregation --secure_threshold 0.5 --clip_norm 1 --noise_multiplier 1 {more}"
    )
    assert done.code == 2
    assert f"{flag}: may leave fewer reports than --secure_aggregation needs" in done.err


def test_without_the_package_or_the_flag_it_is_refused(command, monkeypatch):
    assert "--secure_threshold 0.7: needs --secure_aggregation" in command("federated", "--secure_threshold 0.7").err
    monkeypatch.setattr("fl.flags.security.find_spec", lambda name: None)
    done = command("federated", "--secure_aggregation")
    assert done.code == 2
    assert "--secure_aggregation: needs a package that is not here: sh requirements.sh secure" in done.err
