"""The experiments about SCAFFOLD on two labels a client: what they measure, on a data set that is small."""

import math

import pytest
import torch

from benchmarks import scaffold_jump, why_scaffold
from fl.command_line import parse
from fl.engines import make_engine
from fl.experiment import federated
from fl.guard import guarded
from fl.recorded import federated_rounds
from fl.state import Kept

TINY = "--dataset tiny --num_clients 4 --num_select_clients 4 --batch_size 4 --optimizer sgd --model mlp --hidden 8"


def test_a_clients_push_is_what_moved_it(monkeypatch, capsys):
    """Gradients that shrink as the client learns, and a correction that is 0 at first and then within its bound."""
    monkeypatch.setattr(why_scaffold, "setting", TINY.split)
    why_scaffold.main(["--rate", "0.01", "--global_epoch", "3"])
    heading, start, *rounds = (line.split() for line in capsys.readouterr().out.splitlines())
    assert heading[:3] == ["round", "accuracy", "loss"]
    assert start[3:6] == ["-", "-", "-"]
    (_, _, loss, before, after, drift, *_), second, _ = rounds
    assert float(loss) < float(start[2])
    assert float(before) > float(after) > 0
    assert float(drift) == 0  # nobody has a control variate yet
    assert 0 < float(second[5]) < 2 * float(second[6])  # and ||c - c_k|| is at most twice the largest c_k
    assert second[7:9] == ["(client", second[8]]


def test_a_client_can_be_forgotten(monkeypatch, capsys):
    """From the round after it on the others' correction has nothing of this client, and the run is another one."""
    monkeypatch.setattr(why_scaffold, "setting", TINY.split)
    told = {}
    for more in ("", " --forget 2@1"):
        why_scaffold.main(f"--rate 0.01 --global_epoch 2{more}".split())
        told[more] = capsys.readouterr().out.splitlines()
    usual, forgotten = told.values()
    assert usual[:3] == forgotten[:3]
    assert [line.split()[0] for line in forgotten[1:]] == ["0", "1", "2"]
    assert usual[3] != forgotten[3]
    kept = Kept({"c": {"w": torch.tensor([3.0])}}, {k: {"c_k": {"w": torch.tensor([4.0 * k])}} for k in range(3)})
    less = why_scaffold.without_variate(kept, 2, 0.25)
    assert (why_scaffold.push_on(kept, 2), why_scaffold.push_on(less, 2), why_scaffold.push_on(less, 1)) == (5, 1, 3)


@pytest.mark.parametrize("words", ["--forget 9", "--forget 99@2", "--forget 1@16", "--forget 1@2 --algorithm fedavg"])
def test_a_client_that_cannot_be_forgotten_is_one_line(words, monkeypatch, capsys):
    monkeypatch.setattr(why_scaffold, "setting", TINY.split)
    assert guarded("why_scaffold", lambda: why_scaffold.main(words.split())) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"why_scaffold: {' '.join(words.split()[:2])}: ")


def test_units_that_never_fire_are_counted(monkeypatch):
    config = parse(
        ["--dataset", "tiny", "--model", "mlp", "--hidden", "8", "--optimizer", "sgd", "--num_clients", "4"],
        "federated",
        "",
    )
    x = federated(config)
    first = next(module for module in x.model.modules() if isinstance(module, torch.nn.Linear))
    with torch.no_grad():
        first.weight[:6] = 0
        first.bias[:] = 1
        first.bias[:6] = -1
        first.weight[6:] = 0
    assert why_scaffold.dead(x, {name: tensor.clone() for name, tensor in x.model.state_dict().items()}) == [0.75]


SCAFFOLD = f"{TINY} --algorithm scaffold"


@pytest.mark.parametrize("engine", ["sequential", "stacked"])
def test_the_mean_gradient_with_c_minus_c_k_is_what_c_k_becomes(engine):
    x = federated(parse(f"{SCAFFOLD} --init_lr 0.01 --global_epoch 2".split(), "federated", ""))
    made = make_engine(engine, x)
    _, first, second = federated_rounds(x, made)
    now = x.round_start(2, first.w, first.kept, x.cohort(2))
    became = {k: why_scaffold.norm(second.kept.of(k, "c_k").values()) for k in range(4)}
    assert scaffold_jump.mean_gradients(x, made, now, 1.0) == pytest.approx(became, rel=1e-4)
    assert scaffold_jump.mean_gradients(x, made, now, 0.0) != pytest.approx(became, rel=1e-4)


def test_a_line_a_round_says_what_comes_of_each_way(monkeypatch, capsys):
    monkeypatch.setattr(why_scaffold, "setting", SCAFFOLD.split)
    scaffold_jump.main(["--rate", "0.01", "--global_epoch", "3", "--orders", "2"])
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split()[-3:] == ["with", "without", "reversed"]
    assert [line.split()[0] for line in lines] == ["2", "3"]
    assert scaffold_jump.said([(2.0, 7), (math.nan, 1), (1.0, 0)]) == "1.5, 2 (client 7), 1 lost"
    assert scaffold_jump.said([(math.inf, 7)]) == "-, 1 lost"
