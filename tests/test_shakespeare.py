"""Plays: what becomes of a text, what is wrong with it, and the runs on it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn

import data.shakespeare as source
from data.dataset import IGNORED
from data.shakespeare import UNROLL, shakespeare
from fl.check import resolve
from fl.client import gradient_sum
from fl.engines.cost import multiply_adds
from fl.engines.sequential import Sequential
from fl.errors import DataError
from fl.evaluate import evaluate
from fl.group import Group
from fl.models.char_lstm import char_lstm
from fl.transforms.attack import poisoned
from tests.plays import SPEECHES, TEXT, play
from tests.rounds import run_rounds
from tests.test_golden import config, ragged, task_of
from tests.test_kill import child, context

__all__ = ["context"]  # a fixture
REAL = Path(os.environ.get("SHAKESPEARE_DIR", Path(__file__).parents[1] / "data"))


def spoken(name: str) -> list[str]:
    return [line for speaker, lines in SPEECHES if speaker == name for line in lines]


def text_of(split, rows, alphabet):
    """The characters that the rows predict, and those before them, read back."""
    counts = split.targets[rows].flatten() != IGNORED
    letters = [*alphabet, "?"]
    return tuple(
        "".join(letters[i] for i in codes[rows].flatten()[counts].tolist()) for codes in (split.examples, split.targets)
    )


def test_every_role_with_two_lines_is_a_client_and_loses_no_text(tmp_path):
    made = shakespeare(tmp_path, str(play(tmp_path)))
    assert made.clients.unique().tolist() == [0, 1, 2]  # the ghost has one line
    parts = {"HAMLET": 4, "OPHELIA": 3, "KING": 1}  # lines to train
    train = {name: "".join(f"{line}\n" for line in spoken(name)[:cut]) for name, cut in parts.items()}
    alphabet = sorted(set("".join(train.values())))
    assert made.classes == len(alphabet) + 1
    for k, text in enumerate(train.values()):
        rows = made.clients == k
        assert int(rows.sum()) == -(-(len(text) - 1) // UNROLL)
        assert text_of(made.train, rows, alphabet) == (text[:-1], text[1:])
    test = ["".join(f"{line}\n" for line in spoken(name)[cut:]) for name, cut in parts.items()]
    assert "Q" in test[0]
    assert "Q" not in alphabet
    said = "".join(letter if letter in alphabet else "?" for part in test for letter in part[1:])
    assert text_of(made.test, slice(None), alphabet)[1] == said
    assert made.test.counted == len(said)
    assert (made.train.targets[:, 0] != IGNORED).all()
    assert made.train.examples.shape[1:] == made.train.targets.shape[1:] == (80,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no speakers found; expected NAME: on a line of its own after an empty line"),
        (b"ACT 1\n\nEnter HAMLET: he speaks\n", "no speakers found"),
        (b"A:\nOne line.\n\nB:\n\nC:\nOne more.\n", "none of the 3 roles has two lines, one to train and one for the"),
        (b"A:\n\xff\xfe\n", r"is not UTF-8 \(at byte 3\); convert it to UTF-8"),
        (None, r"cannot be read \(No such file or directory\)"),
    ],
)
def test_what_is_wrong_with_a_text_is_one_line(content, message, tmp_path):
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"^--text {path}: {message}") as error:
        shakespeare(tmp_path, str(path))
    assert len(str(error.value).splitlines()) == 1


def test_any_script_and_any_newline(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffФАУСТ: \r\nЧто?\r\nДа 🎭\r\n".encode())
    made = shakespeare(tmp_path, str(path))
    assert (len(made.train), len(made.test), made.classes) == (1, 1, 6)
    assert made.train.targets[0, :4].tolist() == [4, 3, 1, 0]  # "то?\n" of "\n?Что"


@contextmanager
def server(content: bytes):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(TEXT)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}/input.txt"
        finally:
            httpd.shutdown()
            thread.join()


@pytest.fixture
def small(monkeypatch):
    """The play in place of the known text."""
    monkeypatch.setattr(source, "SHA256", hashlib.sha256(TEXT.encode()).hexdigest())


def test_the_known_text_is_fetched_once_and_verified(tmp_path, monkeypatch, small, capsys):
    with server(TEXT.encode()) as url:
        monkeypatch.setattr(source, "URL", url)
        first = shakespeare(tmp_path)
    assert (tmp_path / "Shakespeare/raw/input.txt").read_text() == TEXT
    assert "data: fetching Shakespeare from" in capsys.readouterr().err
    assert shakespeare(tmp_path).sha256() == first.sha256()  # the server is gone
    (tmp_path / "Shakespeare/raw/input.txt").write_text(TEXT[:-2])
    with pytest.raises(DataError, match=r"input.txt: corrupt: expected SHA-256 .* delete it"):
        shakespeare(tmp_path)


@pytest.mark.parametrize(
    ("content", "why"), [(TEXT[:-2].encode(), "(IncompleteRead|it ended after)"), (b"x" * len(TEXT), "another SHA")]
)
def test_a_server_that_sends_something_else_leaves_nothing(content, why, tmp_path, monkeypatch, small):
    with server(content) as url:
        monkeypatch.setattr(source, "URL", url)
        with pytest.raises(DataError, match=f"{why}.*Put input.txt into .*Shakespeare/raw, or name"):
            shakespeare(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not (REAL / "Shakespeare/raw/input.txt").exists(), reason="needs the text; see SHAKESPEARE_DIR")
def test_the_known_text_has_268_roles():
    made = shakespeare(REAL)
    assert int(made.clients.max()) + 1 == len(made.clients.unique()) == 268
    assert (len(made.train), len(made.test), made.classes) == (10_349, 2_752, 65)


# --- targets that do not count


def test_ignored_targets_change_no_result():
    """The same numbers as of each sequence alone, cut to its length."""
    task = task_of(config(model="char_lstm"))
    data, model = task.data, task.model

    def losses(split):
        for x, y in zip(split.examples, split.targets, strict=True):
            T = int((y != IGNORED).sum())
            logits = model(x[None, :T])
            yield nn.functional.cross_entropy(logits, y[None, :T], reduction="sum"), logits.argmax(1)[0] == y[:T]

    with torch.no_grad():
        loss, right = zip(*losses(data.test), strict=True)
    n = data.test.counted
    assert 0 < n < data.test.targets.numel()
    accuracy, mean = evaluate(model, data, Group())
    assert accuracy == float(torch.cat(right).sum()) / n
    assert mean == pytest.approx(float(sum(loss)) / n, rel=1e-9)

    total = sum(one for one, _ in losses(data.train)) / data.train.counted  # of twelve sequences
    expected = torch.autograd.grad(total * 12, list(model.parameters()))
    for g, one in zip(gradient_sum(model, data, torch.arange(12)).values(), expected, strict=True):
        torch.testing.assert_close(g, one, rtol=1e-9, atol=1e-12)


def test_the_full_gradient_is_that_of_a_whole_batch():
    """FSVRG with one client, B = 0 and one epoch is a step of gradient descent, whatever targets count."""
    sizes = (12,)
    flags = {"model": "char_lstm", "num_clients": 1, "num_select_clients": 1, "batch_size": 0, "local_epoch": 1,
             "global_epoch": 1, "init_lr": 12.0}  # fmt: skip
    ends = []
    for more in ({"algorithm": "fsvrg"}, {"init_lr": 1.0}):  # FSVRG divides its rate by n_k
        c = config(**(flags | more))
        task = task_of(c)
        engine = Sequential(task.model, task.data, ragged(sizes), c)
        ends.append(list(run_rounds(task, ragged(sizes), engine, c))[-1].w)
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-9, atol=1e-12)


def test_flipped_labels_leave_what_does_not_count():
    c = config(model="char_lstm", attack="label_flip", attackers=1.0)
    clean = task_of(c)
    flipped = poisoned(clean.clean, ragged(), c).train.targets[:12]
    before = clean.clean.train.targets[:12]
    assert torch.equal(flipped == IGNORED, before == IGNORED)
    assert torch.equal(flipped[flipped != IGNORED], 8 - before[before != IGNORED])


# --- the model, and runs


def test_the_model_and_its_cost():
    model = char_lstm((80,), 65)
    assert sum(p.numel() for p in model.parameters()) == 815_945
    assert model(torch.zeros(3, 80, dtype=torch.int64)).shape == (3, 65, 80)
    layers = 4 * 256 * (8 + 256) + 4 * 256 * (256 + 256)
    assert multiply_adds(model, torch.zeros(1, 80, dtype=torch.int64)) == 80 * (layers + 256 * 65)


def test_no_character_is_told_of_those_after_it():
    model = char_lstm((6,), 9)
    x = torch.arange(6)[None]
    other = x.clone()
    other[0, 4:] = 8
    assert torch.equal(model(x)[..., :4], model(other)[..., :4])


@pytest.fixture
def on_a_play(command, tmp_path):
    place = tmp_path / "texts"
    place.mkdir()

    def run(script="federated", flags="", folder=None):
        data = f"--dataset shakespeare --text {play(place)} --init_lr 1"
        if script == "federated":
            data += " --partition natural --num_clients 3 --local_epoch 1"
        return command(script, f"{'' if '--resume' in flags else f'{data} --model char_lstm'} {flags}", folder)

    return run


def test_a_run_of_either_script(on_a_play):
    alone = on_a_play(flags="--engine sequential")
    assert (alone.code, alone.err) == (0, "")
    assert json.loads((alone.folder / "config.json").read_text())["model"] == "char_lstm"
    assert on_a_play().sha256 == alone.sha256
    refused = on_a_play(flags="--engine stacked")
    assert "--engine stacked: char_lstm has several targets an example" in refused.err
    assert on_a_play("baseline", "--epoch 1").code == 0


def test_a_baseline_matches_a_run_on_a_play(on_a_play, command):
    alone = on_a_play(flags="--global_epoch 1")
    central = command("baseline", f"--match {alone.folder}")
    assert central.code == 0
    assert central.records[1]["examples"] == alone.records[1]["examples"]
    assert json.loads((central.folder / "config.json").read_text())["text"].endswith("play.txt")


def test_the_data_set_brings_its_model_and_the_model_its_rate():
    chosen = resolve({"dataset": "shakespeare", "optimizer": "sgd"})
    assert (chosen.model, chosen.init_lr) == ("char_lstm", 3.0)


@pytest.mark.slow
def test_two_processes_give_the_same_bits(on_a_play):
    assert on_a_play(flags="--engine distributed --workers 2").sha256 == on_a_play(flags="--workers 0").sha256


def test_a_resumed_run_equals_the_long_one(on_a_play):
    whole = on_a_play(flags="--global_epoch 3", folder="whole")
    assert on_a_play(flags="--global_epoch 1", folder="part").code == 0
    rest = on_a_play(flags="--resume --global_epoch 3", folder="part")
    assert (rest.code, rest.sha256) == (0, whole.sha256)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(on_a_play, tmp_path, context):
    whole = on_a_play(flags="--global_epoch 3")
    flags = json.loads((whole.folder / "config.json").read_text())
    words = f"--dataset shakespeare --text {flags['text']} --init_lr 1 --partition natural --num_clients 3"
    words += " --local_epoch 1 --num_select_clients 2 --optimizer sgd --batch_size 5 --device cpu --global_epoch 3"
    argv = [*words.split(), "--run_dir", str(tmp_path / "killed")]
    for cut, code in (((3, 1.2), -signal.SIGKILL), (None, 0)):
        process = context.Process(target=child, args=([*argv, "--resume"] if cut is None else argv, cut))
        process.start()
        process.join(120)
        assert process.exitcode == code
    summary = json.loads((tmp_path / "killed/summary.json").read_text())
    assert summary["model_sha256"] == whole.sha256


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--dataset shakespeare --model cnn",
            "cnn: cannot read the tokens of --dataset shakespeare; choose --model",
        ),
        ("--model char_lstm", "--model char_lstm: reads nothing but tokens; choose --dataset shakespeare"),
        ("--dataset mnist --text x", "--text x: needs --dataset shakespeare"),
        ("--dataset shakespeare --text /nowhere", "--text /nowhere: cannot be read"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(flags, message, capsys, tmp_path):
    import run_federated

    code = run_federated.run([*flags.split(), "--run_dir", str(tmp_path / "run")])
    assert code == (3 if "nowhere" in flags else 2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


OWN = """
import torch
from data.dataset import Dataset, Split

def load(data_dir, at=1):
    x = torch.arange(12).view(4, 3) % 5
    y = x.clone()
    y[1, at:] = -100
    return Dataset("own", Split(x, y), Split(x, y), 5)

def bad(data_dir):
    return load(data_dir, 0)
"""


def test_targets_of_ones_own_may_be_ignored_but_for_the_first(command, tmp_path):
    (tmp_path / "own_tokens.py").write_text(OWN)
    for name, code in (("load", 0), ("bad", 3)):
        done = command("federated", f"--dataset {tmp_path}/own_tokens.py:{name} --model char_lstm --num_clients 2")
        assert done.code == code
    assert "train has other targets than int64 from 0 to classes - 1 = 4" in done.err
