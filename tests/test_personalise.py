"""Tests of each client's own: who keeps which examples, how models do on them, and what tuning gives each client."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch

from data.dataset import IGNORED, Dataset
from data.held_out import hold_out
from data.partition import Partition
from fl.client_eval import client_accuracies, spread
from fl.engines.sequential import Sequential
from fl.engines.stacked import Stacked
from fl.errors import FlagError
from fl.experiment import federated
from fl.group import Group
from fl.personalise import final_tests, local_epochs, of_all, one_by_one
from fl.records.reading import parse_record
from tests.rounds import run_rounds
from tests.test_engines import OPTIMIZERS
from tests.test_golden import SIZES, close, config, ragged, task_of

FLAGS = "--client_test_fraction 0.2 --client_eval_every 2 --personalise_epochs 2 --local_only"


def of_sizes(*sizes) -> Partition:
    owners = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    order = torch.randperm(len(owners), generator=torch.Generator().manual_seed(0))
    return Partition.from_owners(owners[order], len(sizes))


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_each_example_is_trained_on_or_tested_with_by_its_client(fraction):
    whole = of_sizes(10, 1, 2, 37)
    train, test = hold_out(whole, fraction, 0)
    for k, n_k in enumerate((10, 1, 2, 37)):
        assert torch.equal(torch.cat([train[k], test[k]]).sort().values, whole[k])
        assert len(test[k]) == min(max(round(fraction * n_k), 1), n_k - 1)
        assert torch.equal(train[k], train[k].sort().values)
        assert torch.equal(test[k], test[k].sort().values)


def test_the_seed_draws_them_and_evenly():
    whole = of_sizes(30, 50)
    same, other = hold_out(whole, 0.2, 0), hold_out(whole, 0.2, 1)
    assert torch.equal(hold_out(whole, 0.2, 0)[1].indices, same[1].indices)
    assert not torch.equal(other[1].indices, same[1].indices)
    times = torch.zeros(80)
    for seed in range(1000):
        times[hold_out(whole, 0.2, seed)[1].indices] += 1
    assert (times - 200).abs().max() < 5 * (1000 * 0.2 * 0.8) ** 0.5


def test_clients_of_one_example_have_no_test():
    with pytest.raises(FlagError, match="each of the 3 clients has one example"):
        hold_out(of_sizes(1, 1, 1), 0.5, 0)


def test_no_one_trains_on_what_is_held_out(command, monkeypatch):
    trained, tested, inputs = set(), set(), Dataset.inputs

    def watched(self, rows, draws=None):
        caller = sys._getframe(1).f_code.co_name
        (tested if caller == "hits" else trained).update(rows.flatten().tolist())
        return inputs(self, rows, draws)

    monkeypatch.setattr(Dataset, "inputs", watched)
    done = command("federated", f"{FLAGS} --num_select_clients 4 --batch_size 0")
    assert done.code == 0, done.err
    x = federated(config(num_clients=4, client_test_fraction=0.2))
    held = set(x.held_out.indices.tolist())
    assert len(held) == len(x.held_out.indices) > 0
    assert tested == held
    assert trained == set(range(len(x.data.train))) - held


def test_the_labels_of_tests_are_no_attackers():
    flags = {"num_clients": 3, "client_test_fraction": 0.3}
    plain, bad = (federated(config(**flags, **more)) for more in ({}, {"attack": "label_flip", "attackers": 1.0}))
    held = plain.held_out.indices
    assert torch.equal(bad.data.train.targets[held], plain.data.train.targets[held])
    assert not torch.equal(bad.data.train.targets, plain.data.train.targets)


@pytest.mark.parametrize("flags", [{}, {"model": "char_lstm"}])  # which has several targets
def test_an_evaluation_is_each_clients_alone(flags, monkeypatch):
    monkeypatch.setattr("fl.client_eval.CHUNK", {"cpu": 5})  # which no client's examples fill
    task = task_of(config(num_clients=3, **flags))
    whole = ragged((6, 4, 1))
    task = replace(task, held_out=Partition(whole.indices, torch.tensor([0, 6, 6, 10, 11])))  # client 1 has none
    expected = []
    for rows in (task.held_out[0], task.held_out[2], task.held_out[3]):
        x, y = task.data.batch(task.data.train, rows)
        expected.append(float((task.model.eval()(x).argmax(1) == y).sum() / (y != IGNORED).sum().double()))
    assert client_accuracies(task, task.w, None, Group()).tolist() == expected
    assert task.model.training


def test_the_figures_by_hand():
    accuracies = torch.arange(25, dtype=torch.float64) / 25
    figures = spread(accuracies[torch.randperm(25)])
    assert figures["mean"] == pytest.approx(0.48)
    assert figures["std"] == pytest.approx(((25**2 - 1) / 12) ** 0.5 / 25)
    assert figures["worst_decile"] == pytest.approx(0.02)  # of the two worst
    assert spread(torch.tensor([0.5, 1.0], dtype=torch.float64))["worst_decile"] == 0.5


def ends_of(c, engine, **more):
    """The end of the rounds, and the models of all clients that `more` asks for: (t, from w_0?, epochs)."""
    task = task_of(c)
    first = task.w
    made = engine(task.model, task.data, ragged(), c)
    end = list(run_rounds(task, ragged(), made, c))[-1]
    x = replace(task, partition=ragged(), config=c)
    now = of_all(x, **{"t": c.global_epoch + 1, "w": end.w, "epochs": c.local_epoch, "clients": [0, 1, 2]} | more)
    models = {k: {n: v.clone() for n, v in w.items()} for k, w in one_by_one(made.train([0, 1, 2], now))}
    return first, end, models


@pytest.mark.parametrize("engine", [Sequential, Stacked])
def test_tuning_for_E_epochs_is_one_more_round_without_its_mean(engine):
    """So the rate goes on as in the rounds, and no batch of theirs comes again."""
    _, _, models = ends_of(config(global_epoch=2, lr_decay=0.5), engine)
    c = config(global_epoch=3, lr_decay=0.5)
    task = task_of(c)
    end = list(run_rounds(task, ragged(), engine(task.model, task.data, ragged(), c), c))[-1]
    mean = {name: sum(SIZES[k] * models[k][name] for k in range(3)) / sum(SIZES) for name in end.w}
    close(end.w, mean, 1e-12)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("epochs", [1, 3])
def test_every_engine_tunes_alike(epochs, optimizer):
    c = config(**OPTIMIZERS[optimizer])
    both = [ends_of(c, engine, epochs=epochs)[2] for engine in (Sequential, Stacked)]
    for k in range(3):
        close(both[0][k], both[1][k], 1e-9)


@pytest.mark.parametrize("engine", [Sequential, Stacked])
def test_one_client_alone_is_its_federation(engine):
    """With K = 1 the passes of --local_only are those of the rounds, in the same order."""
    c = config(num_clients=1, num_select_clients=1)
    task, one = task_of(c), ragged((12,))
    first, made = task.w, engine(task.model, task.data, one, c)
    end = list(run_rounds(task, one, made, c))[-1]
    now = of_all(replace(task, partition=one, config=c), 1, first, local_epochs(c, 3), [0])
    ((k, w),) = one_by_one(made.train([0], now))
    assert k == 0
    close(end.w, w, 1e-12)


def test_as_many_passes_as_a_client_makes_on_average():
    c = config(num_clients=100, num_select_clients=10, local_epoch=5)
    assert [local_epochs(c, T) for T in (0, 1, 3, 20)] == [1, 1, 2, 10]


def test_what_a_run_leaves(command, real_pictures):
    done = command("federated", f"{FLAGS} --global_epoch 3")
    assert done.code == 0, done.err
    assert ["client_accuracy" in record for record in done.records] == [True, False, True, True]
    last, summary = done.records[-1]["client_accuracy"], done.summary
    assert last.keys() == {"mean", "std", "worst_decile"}
    assert summary["client_accuracy"] == summary["personalised"]["before"] == last
    table = json.loads((done.folder / "client_accuracy.json").read_text())
    assert table.pop("clients") == [0, 1, 2, 3]
    assert list(table) == list(summary["personalised"]) == ["before", "after", "local_only"]
    for name, values in table.items():
        assert summary["personalised"][name] == spread(torch.tensor(values, dtype=torch.float64))
    for name in ("clients.png", "personalised.png"):
        assert (done.folder / name).read_bytes().startswith(b"\x89PNG")
    lines = [line for line in done.out.splitlines() if line.startswith("clients, ")]
    assert [line.split("  ")[0].rstrip() for line in lines] == [
        "clients, before", "clients, after", "clients, local only"
    ]  # fmt: skip
    assert f"{summary['personalised']['after']['mean']:.2%}" in lines[1]


def test_the_model_is_that_of_all_and_of_none_of_this(command):
    held = "--client_test_fraction 0.2"
    plain, tested = command("federated", held), command("federated", FLAGS)
    assert plain.sha256 == tested.sha256 != command("federated").sha256
    without = [{k: v for k, v in record.items() if k != "client_accuracy"} for record in tested.untimed]
    assert plain.untimed == without
    assert not (plain.folder / "client_accuracy.json").exists()
    assert "client_accuracy" not in plain.summary


RUNS = ["", "--keep_optimizer_state --momentum 0.9", "--algorithm scaffold --augment crop_flip", "--proxy_fraction 0.3"]


@pytest.mark.parametrize("more", RUNS)
def test_killed_while_clients_tune_or_in_two_processes_gives_the_same(more, command, monkeypatch):
    flags = f"{FLAGS} --global_epoch 4 {more}"
    whole = command("federated", flags, folder="whole")
    assert whole.code == 0, whole.err

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fl.personalise.accuracies_of", killed)
        cut = command("federated", flags, folder="cut")
        assert cut.code == 130
        assert not (cut.folder / "summary.json").exists()
    cut = command("federated", "--resume", folder="cut")
    again = command("federated", "--resume", folder="cut")
    others = [cut, again]
    if not more or "scaffold" in more:
        others.append(command("federated", f"{flags} --workers 2", folder="two"))
    for other in others:
        assert other.code == 0, other.err
        assert (other.sha256, other.untimed) == (whole.sha256, whole.untimed)
        assert other.summary["personalised"] == whole.summary["personalised"]


def test_a_finished_run_can_be_asked_for_it(command):
    whole = command("federated", FLAGS, folder="whole")
    less = FLAGS.replace("--personalise_epochs 2 --local_only", "")
    assert "personalised" not in command("federated", less, folder="later").summary
    later = command("federated", "--resume --personalise_epochs 2 --local_only", folder="later")
    assert later.summary["personalised"] == whole.summary["personalised"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_stops_at_its_target_tunes_what_it_has(workers, command):
    stop = "--target_accuracy 0.8 --stop_at_target --init_lr 0.003"
    stopped = command("federated", f"{FLAGS} {stop} --global_epoch 30 --workers {workers}", folder="stopped")
    assert stopped.code == 0, stopped.err
    T = stopped.summary["rounds"]
    assert 0 < T < 30
    short = command("federated", f"{FLAGS} --init_lr 0.003 --global_epoch {T}")
    assert stopped.sha256 == short.sha256
    assert stopped.summary["personalised"] == short.summary["personalised"]
    again = command("federated", "--resume", folder="stopped")
    assert again.code == 0, again.err
    assert again.summary["personalised"] == short.summary["personalised"]


def test_off_it_is_nothing():
    x = federated(config())
    assert (x.held_out, x.first, x.personal) == (None, None, [])
    assert final_tests(x, None, Group(), None) is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--client_eval_every 1", "--client_eval_every 1: needs a --client_test_fraction"),
        ("--personalise_epochs 1", "--personalise_epochs 1: needs a --client_test_fraction"),
        ("--local_only", "--local_only: needs a --client_test_fraction"),
        ("--client_test_fraction 1", "--client_test_fraction 1: expected a number in [0, 1)"),
        ("--client_test_fraction 0.1 --num_clients 61", "--client_test_fraction 0.1: each of the 61 clients has one"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, words, command):
    done = command("federated", flags)
    assert done.code == 2
    assert words in done.err
    assert not done.folder.exists()


@pytest.mark.parametrize("wrong", ['{"mean": 0.5}', '{"mean": null, "std": 0.1, "worst_decile": 0.1}', "0.5"])
def test_a_record_that_is_damaged_is_refused(wrong, command):
    done = command("federated", "--client_test_fraction 0.2 --client_eval_every 1")
    line = (done.folder / "metrics.jsonl").read_bytes().splitlines()[1]
    assert parse_record(line, 1)["client_accuracy"]
    record = json.loads(line) | {"client_accuracy": json.loads(wrong)}
    with pytest.raises(ValueError, match="expected mean, std and worst_decile in"):
        parse_record(json.dumps(record).encode(), 1)


def test_the_plan_says_what_is_held_out(command):
    done = command("federated", "--client_test_fraction 0.2 --dry_run")
    assert "held out      12 examples, on which 4 clients are tested" in done.out
    assert "held out" not in command("federated", "--dry_run").out


@pytest.mark.parametrize("layers", [0, 1])
def test_where_clients_begin_after_the_rounds(layers):
    """Tuning goes on from the final model as the round after the last; alone, clients begin with w_0 as in round 1."""
    seen = []

    class Watched(Sequential):
        def train(self, clients, now, tell):
            seen.append((now, tell([1])))
            return super().train(clients, now, tell)

    c = config(personal_layers=layers, client_test_fraction=0.2, personalise_epochs=4, local_only=True,
               keep_optimizer_state=True, momentum=0.5)  # fmt: skip
    task = replace(task_of(c), partition=ragged(), held_out=ragged())
    task = replace(task, first=task.w)
    engine = Watched(task.model, task.data, ragged(), c)
    end = list(run_rounds(task, ragged(), engine, c))[-1]
    seen.clear()
    outcome = final_tests(task, engine, Group(), end)
    assert outcome.clients == [0, 1, 2]
    (tuned, told), (alone, told_alone) = seen
    assert (tuned.t, alone.t) == (4, 1)
    assert [[now.epochs_of(k) for k in range(3)] for now in (tuned, alone)] == [[4] * 3, [6] * 3]
    assert tuned.kept.clients == alone.kept.clients == {}
    close(tuned.w, end.w, 0)
    close(alone.w, task.first, 0)
    assert told_alone.start is None
    if layers:
        close({name: own[0] for name, own in told.start.items()}, end.kept.of(1, "personal"), 0)
    else:
        assert told.start is None
