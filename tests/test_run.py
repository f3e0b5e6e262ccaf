"""Both scripts from flags to run folder, on the tiny data set."""

from __future__ import annotations

import json
import re

import pytest
import torch

from fl.config import MATCHED
from fl.records.checkpoint import model_sha256
from fl.records.reading import OURS, RECORD_KEYS, rounds_to_target

# Only runs with simulated devices, changing data or tests of clients have these, and those that diverged in a sweep.
FEDERATED_FILES = set(OURS) - {
    "devices.png", "drift.png", "clients.png", "personalised.png", "client_accuracy.json", "diverged.txt"
}  # fmt: skip
BASELINE_FILES = FEDERATED_FILES - {"partition.png"}


@pytest.mark.parametrize(("script", "files"), [("federated", FEDERATED_FILES), ("baseline", BASELINE_FILES)])
def test_a_run_leaves_the_whole_folder_and_ends_with_the_two_lines(script, files, command, real_pictures):
    done = command(script, "--target_accuracy 0.3 --target_accuracy 0.9999")
    assert done.code == 0
    assert {path.name for path in done.folder.iterdir()} == files
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in done.folder.glob("*.png"))
    assert [record["round"] for record in done.records] == [0, 1, 2, 3]
    assert all(set(record) == RECORD_KEYS for record in done.records)
    lines = done.out.splitlines()
    assert re.fullmatch(r"Test Accuracy = \d+\.\d\d%", lines[-2])
    assert re.fullmatch(r"Test Loss = \d+\.\d{3}", lines[-1])
    assert float(lines[-2][16:-1]) == pytest.approx(done.summary["test_accuracy"] * 100, abs=0.005)
    assert sum(line.startswith("round ") for line in lines) == 4
    assert set(done.summary) == {
        "test_accuracy", "test_loss", "best_test_accuracy", "rounds", "rounds_to_target",
        "wall_seconds", "model_sha256", "parameters",
    }  # fmt: skip
    model = torch.load(done.folder / "model.pt", weights_only=True)
    assert model_sha256(model) == done.sha256
    assert done.summary["rounds_to_target"]["0.3"] == rounds_to_target(done.records, 0.3)
    assert done.err == ""


def test_records_count_what_was_done(command):
    done = command("federated", "--num_clients 4 --num_select_clients 3 --batch_size 4 --local_epoch 2")
    sizes = [16, 15, 15, 15]
    model_bytes = 4 * (64 * 3 + 3)
    for record in done.records[1:]:
        clients = record["clients"]
        assert len(clients) == 3
        assert record["examples"] == 2 * sum(sizes[k] for k in clients)
        assert record["local_steps"] == 2 * 3 * 4
        assert record["downlink_bytes"] == record["uplink_bytes"] == 3 * model_bytes
    baseline = command("baseline", "--batch_size 4").records
    assert [record["examples"] for record in baseline] == [0, 61, 61, 61]
    assert [record["local_steps"] for record in baseline] == [0, 16, 16, 16]
    assert all(record["clients"] == [] and record["uplink_bytes"] == 0 for record in baseline)


def test_quiet_prints_two_lines(command):
    assert len(command("federated", "--quiet").out.splitlines()) == 2


def test_same_seed_same_bits_other_seed_other_bits(command):
    one, same, other = command("federated"), command("federated"), command("federated", "--seed 1")
    assert one.sha256 == same.sha256
    assert one.untimed == same.untimed
    assert one.sha256 != other.sha256


def test_cohorts_depend_on_nothing_but_seed_and_sizes_of_the_draw(command):
    runs = [
        command("federated", flags)
        for flags in ("", "--model 2nn", "--optimizer adam", "--partition shards", "--keep_optimizer_state")
    ]
    cohorts = [[record["clients"] for record in run.records] for run in runs]
    assert all(cohort == cohorts[0] for cohort in cohorts)
    assert len({tuple(c) for c in cohorts[0][1:]}) > 1  # drawn anew, not once


def test_both_scripts_start_from_the_same_weights(command):
    federated, baseline = command("federated"), command("baseline")
    for key in ("test_accuracy", "test_loss"):
        assert federated.records[0][key] == baseline.records[0][key]


def test_both_learn(command):
    flags = "--global_epoch 10 --epoch 10"
    assert command("federated", flags).summary["test_accuracy"] == 1.0
    assert command("baseline", flags).summary["test_accuracy"] == 1.0


def test_eval_every_leaves_the_rest_null_and_evaluates_the_last(command):
    done = command("federated", "--global_epoch 5 --eval_every 3")
    assert [record["test_accuracy"] is not None for record in done.records] == [True, False, False, True, False, True]
    assert done.sha256 == command("federated", "--global_epoch 5").sha256


def test_stop_at_target_ends_the_run(command):
    done = command("federated", "--global_epoch 30 --target_accuracy 0.9 --target_accuracy 0.5 --stop_at_target")
    assert done.records[-1]["test_accuracy"] >= 0.9
    assert all(record["test_accuracy"] < 0.9 for record in done.records[:-1])
    assert len(done.records) < 31


def test_stop_below_ends_a_run_that_does_not_learn(command):
    slow = "--global_epoch 9 --init_lr 1e-6 --eval_every 2"
    whole = command("federated", slow)
    low = max(record["test_accuracy"] for record in whole.records if record["test_accuracy"] is not None) + 0.01
    done = command("federated", f"{slow} --stop_below {low}@3", folder="a")
    assert done.summary["rounds"] == 4  # the first round from 3 on that is evaluated
    assert done.summary["stopped_below"] == f"{low!r}@3"
    assert "ended at round 4 of 9" in done.out
    assert done.untimed == whole.untimed[:5]
    again = command("federated", "--resume", folder="a")
    assert "nothing to do" in again.out
    assert (again.summary["stopped_below"], again.sha256) == (f"{low!r}@3", done.sha256)
    more = command("federated", "--resume --stop_below 0@0", folder="a")
    assert more.sha256 == whole.sha256
    assert "stopped_below" not in more.summary
    assert command("baseline", f"--init_lr 1e-6 --stop_below {low}@1").summary["rounds"] == 1


def test_stop_below_lets_a_run_go_on_that_was_good_once(command):
    whole = command("federated", "--global_epoch 4")
    best = max(record["test_accuracy"] for record in whole.records)
    done = command("federated", f"--global_epoch 4 --stop_below {best}@3")
    assert "stopped_below" not in done.summary
    assert done.sha256 == whole.sha256


@pytest.mark.parametrize("value", ["0.2", "0.2@", "1.2@5", "0.2@-1", "nan@3", "0.2@5.5", "0.2@5@6"])
def test_stop_below_is_an_accuracy_and_a_round(value, command):
    done = command("federated", f"--stop_below {value}")
    assert done.code == 2
    assert f"--stop_below {value}: expected an accuracy in [0, 1], @ and a round, such as 0.2@50" in done.err


def test_a_run_can_be_of_no_rounds(command):
    assert command("federated", "--global_epoch 0").records[-1]["round"] == 0
    assert command("baseline", "--epoch 0").summary["rounds"] == 0


@pytest.mark.parametrize(
    ("script", "words"), [("federated", ["K = 4", "u = E n / (K B) = 6.1", "780"]), ("baseline", ["39 gradient steps"])]
)
def test_dry_run_prints_the_plan_and_writes_nothing(script, words, command):
    done = command(script, "--dry_run")
    assert done.code == 0
    assert not done.folder.exists()
    for word in words:
        assert word in done.out


MATCHING = "--momentum 0.5 --weight_decay 0.01 --lr_decay 0.9 --eval_every 3 --target_accuracy 0.4"


def test_match_processes_as_many_examples_as_often(command):
    federated = command("federated", f"--partition quantity --global_epoch 4 --seed 3 {MATCHING}")
    matched = command("baseline", f"--match {federated.folder}")
    assert [r["examples"] for r in matched.records] == [r["examples"] for r in federated.records]
    assert matched.records[0]["test_loss"] == federated.records[0]["test_loss"]
    assert [r["test_loss"] is None for r in matched.records] == [r["test_loss"] is None for r in federated.records]
    ours, theirs = (json.loads((done.folder / "config.json").read_text()) for done in (matched, federated))
    assert {name: ours[name] for name in MATCHED} == {name: theirs[name] for name in MATCHED}
    other_seed = command("baseline", f"--match {federated.folder} --seed 4")
    assert other_seed.records[0]["test_loss"] != federated.records[0]["test_loss"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such folder"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: (path.mkdir(), (path / "config.json").write_text("{")), "cannot be read"),
        (
            lambda path: (path.mkdir(), (path / "config.json").write_text('{"script": "x"}')),
            "not a run's flags",
        ),
    ],
)
def test_match_needs_a_federated_run(make, message, command, tmp_path):
    make(tmp_path / "m")
    done = command("baseline", f"--match {tmp_path}/m")
    assert done.code in (2, 4)
    assert message in done.err
    assert not done.folder.exists()


def curve(*accuracies):
    return [{"round": t, "test_accuracy": accuracy} for t, accuracy in enumerate(accuracies)]


@pytest.mark.parametrize(
    ("records", "target", "expected"),
    [
        (curve(0.1, 0.5, 0.9), 0.7, 1.5),
        (curve(0.1, 0.5, 0.9), 0.5, 1.0),
        (curve(0.1, 0.6, 0.4, 0.8), 0.7, 2.5),  # monotone: from the best so far, not from the dip
        (curve(0.1, None, None, 0.7), 0.4, 1.5),
        (curve(0.9, 0.95), 0.5, 0.0),
        (curve(0.1, 0.2), 0.5, None),
        (curve(0.1, float("nan"), 0.9), 0.5, 1.5),
    ],
)  # fmt: skip
def test_rounds_to_target(records, target, expected):
    assert rounds_to_target(records, target) == (None if expected is None else pytest.approx(expected))


def test_a_line_of_a_round_fits_a_terminal():
    from fl.run import round_line

    record = {"round": 3, "test_accuracy": 0.98765, "test_loss": 0.04321, "train_loss": 0.1, "clients": [1, 2],
              "examples": 50, "round_seconds": 12.0, "evaluate_seconds": 0.34}  # fmt: skip
    assert round_line(record, 5) == "round 3/5  accuracy 98.77%  loss 0.0432  train loss 0.1000  12.3 s  2 clients"
    long = record | {"test_loss": 123456.789, "train_loss": 1e9, "rejected": {1: "not finite"}}
    assert len(round_line(long, 10**6)) <= 80
    assert round_line(record | {"rejected": {4: "not finite"}, "clients": []}, 5).endswith("12.3 s  1 rejected")
    first = record | {"round": 0, "train_loss": None, "examples": 0, "clients": []}
    assert round_line(first, 5) == "round 0/5  accuracy 98.77%  loss 0.0432  12.3 s"
