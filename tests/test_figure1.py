"""reproduce.py --cell figure1: two models, what lies between them, and whether the paper's claim holds."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

import reproduce
from fl.command_line import parse
from fl.experiment import federated
from fl.published import figure1
from tests.conftest import ROOT

TINY = "--dataset tiny --device cpu --num_clients 3 --local_epoch 4 --batch_size 5"


def tiny(more=""):
    return federated(parse([*figure1.FLAGS, *f"{TINY} {more}".split()], "federated", ""))


def test_the_flags_are_those_of_the_paper():
    config = parse(figure1.FLAGS, "federated", "")
    examples = 60_000 // config.num_clients
    assert (config.model, config.optimizer, config.init_lr, examples) == ("2nn", "sgd", 0.1, 600)
    assert config.local_epoch * examples // config.batch_size == 240  # updates
    steps = [b - a for a, b in zip(figure1.THETAS, figure1.THETAS[1:], strict=False)]
    assert (len(figure1.THETAS), figure1.THETAS[0], figure1.THETAS[-1]) == (50, -0.2, pytest.approx(1.2))
    assert steps == [pytest.approx(1.4 / 49)] * 49


def test_a_mixture_lies_on_the_line_through_both():
    w, other = {"a": torch.tensor([1.0, 4.0])}, {"a": torch.tensor([3.0, 0.0]), "seen": torch.tensor(7)}
    for theta, expected in ((0, [3, 0]), (0.5, [2, 2]), (1, [1, 4]), (1.5, [0, 6])):
        mixture = figure1.mixture(theta, w, other)
        assert mixture["a"].tolist() == expected
        assert mixture["seen"] == 7


def test_each_parent_takes_its_own_steps_from_its_own_start():
    """With one full batch that is one step down the gradient of the client's own examples."""
    x = tiny("--local_epoch 1 --batch_size 0")
    starts = [x.w, {name: 0.5 * tensor for name, tensor in x.w.items()}]
    for k, w in enumerate(figure1.trained_apart(x, starts)):
        x.model.load_state_dict(starts[k])
        inputs, labels = x.data.batch(x.data.train, x.partition[k])
        gradients = torch.autograd.grad(F.cross_entropy(x.model(inputs), labels), list(x.model.parameters()))
        for (name, start), gradient in zip(starts[k].items(), gradients, strict=True):
            torch.testing.assert_close(w[name], start - 0.1 * gradient)


def test_what_is_measured_is_the_loss_on_the_training_set():
    """With a rate that moves nothing, a shared start has one loss everywhere: that of the first weights."""
    x = tiny("--init_lr 1e-30")
    inputs, labels = x.data.batch(x.data.train, slice(None))
    with torch.no_grad():
        expected = pytest.approx(F.cross_entropy(x.model(inputs), labels).item(), rel=1e-5)
    w_0 = x.w
    shared, different = (figure1.mixed(x, start, w_0) for start in ("shared", "different"))
    assert [*shared.parents, shared.average, *shared.losses] == [expected] * 53
    assert different.parents[0] == expected
    assert different.parents[1] != expected


def test_the_claim_needs_every_seed():
    def found(shared, different):
        return [figure1.Mixed(start, 0, (0.4, 0.6), average, []) for start, all_of_them in
                (("shared", shared), ("different", different)) for average in all_of_them]  # fmt: skip

    assert figure1.claim_holds(found([0.3, 0.2], [0.61, 0.9]))
    assert not figure1.claim_holds(found([0.3, 0.41], [0.61, 0.9]))
    assert not figure1.claim_holds(found([0.3, 0.2], [0.5, 0.9]))  # better than one of the parents
    assert figure1.words([-1.0, -2.0]) == "worse than the better model by 1.500 ± 0.707 nats"


@pytest.fixture
def cell(tmp_path, capsys, monkeypatch):
    """cell(flags): exit code, stdout, stderr and the folder of the figure for an experiment with other flags."""

    def run(flags="", words=""):
        monkeypatch.setattr(figure1, "FLAGS", [*figure1.FLAGS, *TINY.split(), *flags.split()])
        command = ["mcmahan2017", "--cell", "figure1", "--seeds", "2", "--out", str(tmp_path), *words.split()]
        capsys.readouterr()
        return reproduce.run(command), *capsys.readouterr(), tmp_path / "mcmahan2017"

    return run


def test_the_cell_leaves_figures_and_a_picture(cell):
    code, out, err, place = cell()
    assert err == ""
    told = json.loads((place / "figure1.json").read_text())
    assert code == (0 if told["verdict"] == "within" else 1)
    assert [(one["start"], one["seed"]) for one in told["mixed"]] == [
        ("different", 0), ("shared", 0), ("different", 1), ("shared", 1)
    ]  # fmt: skip
    assert [len(one["losses"]) for one in told["mixed"]] == [50] * 4
    assert (told["flags"]["num_clients"], told["flags"]["batch_size"]) == (3, 5)
    assert (place / "figure1.png").read_bytes().startswith(b"\x89PNG")
    assert not (place / "table.md").exists()
    for one in told["mixed"]:
        row = [line.split() for line in out.splitlines() if line.split()[:2] == [one["start"], str(one["seed"])]]
        assert float(row[0][4]) == pytest.approx(one["average"], abs=5e-4)


def test_a_claim_that_does_not_hold_is_exit_code_1(cell):
    code, out, _, _ = cell("--init_lr 1e-30")  # nobody learns, so no average is better than its parents
    assert code == 1
    assert out.splitlines()[-2].endswith("worse: out")


def test_what_diverges_is_one_line(cell):
    found, _, err, place = cell("--init_lr 1e30")
    assert (found, len(err.splitlines())) == (5, 1)
    assert err.startswith("reproduce.py: --init_lr 1e+30: training diverged")
    assert not place.exists()


def test_a_spent_budget_is_no_figure(cell):
    code, _, err, place = cell(words="--budget 1e-9")
    assert (code, err) == (0, "--budget 1e-09: is spent; give the command again to go on\n")
    assert not place.exists()


def test_seeds_that_are_measured_are_kept(cell, monkeypatch):
    _, first, _, place = cell()
    measure, seeds = figure1.mixed, []
    monkeypatch.setattr(figure1, "mixed", lambda x, *rest: seeds.append(x.config.seed) or measure(x, *rest))
    assert cell()[1] == first
    assert seeds == []
    told = json.loads((place / "figure1.json").read_text())
    (place / "figure1.json").write_text(json.dumps(told | {"mixed": told["mixed"][:2]}))  # ended after one seed
    assert cell()[1] == first
    assert seeds == [1, 1]
    assert json.loads((place / "figure1.json").read_text()) == told
    low = told["mixed"][0] | {"average": "low"}
    for damage in ("[", "{}", json.dumps(told | {"mixed": told["mixed"][1:]}), json.dumps(told | {"mixed": [low]})):
        (place / "figure1.json").write_text(damage)
        code, _, err, _ = cell()
        assert (code, len(err.splitlines())) == (4, 1)
        assert "delete it and run the cell again" in err
    (place / "figure1.json").write_text(json.dumps(told))
    cell("--init_lr 0.2")  # another experiment
    assert seeds == [1, 1, 0, 0, 1, 1]


def test_fewer_seeds_than_were_measured_show_and_judge_all_of_them(cell, monkeypatch):
    _, out, _, place = cell()
    before = (place / "figure1.png").read_bytes()
    monkeypatch.setattr(figure1, "mixed", None)
    assert cell(words="--seeds 1")[1] == out
    assert (place / "figure1.png").read_bytes() == before


def test_a_budget_that_is_spent_does_not_hide_that_the_claim_fails(cell, monkeypatch):
    _, _, _, place = cell("--init_lr 1e-30")
    told = json.loads((place / "figure1.json").read_text())
    (place / "figure1.json").write_text(json.dumps(told | {"mixed": told["mixed"][:2]}))  # ended after one seed
    code, _, err, _ = cell(words="--budget 1e-9")
    assert (code, err.splitlines()[-1]) == (1, "--budget 1e-09: is spent; give the command again to go on")


def test_the_list_has_the_figure_beside_the_cells(capsys):
    assert reproduce.run(["mcmahan2017", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "figure1  the average of two models against both"
    assert "table1/2nn/iid/B10/C0.1  87 rounds" in lines


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "data/MNIST/raw").exists(), reason="needs MNIST in data/")
def test_the_claim_holds_on_mnist(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert reproduce.run(["mcmahan2017", "--cell", "figure1", "--seeds", "1", "--out", str(tmp_path)]) == 0
