"""Records and flags that are read back: what a run wrote is taken, anything else is refused in one line."""

import json
import os
import signal
from contextlib import contextmanager

import pytest

from fl.config_file import read_config
from fl.errors import RunFolderError
from fl.records.reading import client_tests, is_finished, read_metrics, read_records
from tests.folders import lines, make_run, record

DEEP = "[" * 100_000 + "]" * 100_000
HUGE = "1" + "0" * 5000


@contextmanager
def in_seconds(seconds):
    """Fail when what is inside hangs."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("hangs"))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def refused(read, folder, words):
    with pytest.raises(RunFolderError) as error, in_seconds(10):
        read(folder)
    text = str(error.value)
    assert str(folder) in text
    assert words in text
    assert len(text.splitlines()) == 1
    assert len(text) < 400 + len(str(folder))


def test_what_runs_write_is_read_as_they_wrote_it(command):
    done = command("federated", "--target_accuracy 0.9 --target_accuracy 0.5 --eval_every 2", folder="a")
    assert read_records(done.folder) == done.records
    assert is_finished(done.folder, done.records)
    flags = read_config(done.folder)
    assert flags["target_accuracy"] == (0.5, 0.9)
    recorded = json.loads((done.folder / "config.json").read_text())
    assert flags == recorded | {"target_accuracy": (0.5, 0.9), "transform": ()}
    baseline = command("baseline", f"--match {done.folder}", folder="b")
    assert read_records(baseline.folder) == baseline.records
    assert read_config(baseline.folder)["match"] == str(done.folder)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("examples", DEEP, "line 3: nested too deeply"),
        ("more", DEEP, "line 3: nested too deeply"),
        ("examples", HUGE, "line 3: 10000000000000000000... is too large a number"),
        ("more", HUGE, "is too large a number"),
        ("examples", 2**63, "9223372036854775808 is too large a number"),
        ("examples", "1e999", "1e999 is too large a number"),
        ("test_loss", "1e999", "1e999 is too large a number"),
        ("test_loss", "-1e999", "-1e999 is too large a number"),
        ("test_loss", "Infinity", "Infinity is not a number"),
        ("round_seconds", "NaN", "NaN is not a number"),
        ("test_loss", "1e308", "test_loss is 1e+308, expected a number up to 1e+100 or null"),
        ("test_loss", '"1.0"', "test_loss is '1.0', expected a number"),
        ("test_loss", "true", "test_loss is True"),
        ("test_loss", "[[1.0]]", "test_loss is [[1.0]]"),
        ("test_accuracy", "1.5", "test_accuracy is 1.5, expected a number in [0, 1] or null"),
        ("test_accuracy", "-0.5", "test_accuracy is -0.5"),
        ("examples", "true", "examples is True, expected an integer >= 0"),
        ("examples", "1.5", "examples is 1.5"),
        ("examples", "-1", "examples is -1"),
        ("examples", "null", "examples is None"),
        ("examples", json.dumps("x" * 10**5), "examples is 'xxxx"),
        ("round", "2.0", "round is 2.0"),
        ("round", "7", "is of round 7, expected 2"),
        ("round_seconds", "-1.0", "round_seconds is -1.0"),
        ("clients", "null", "clients is None, expected a list of integers >= 0"),
        ("clients", "[0, true]", "clients is [0, True]"),
        ("clients", "[[0]]", "clients is [[0]]"),
    ],
)
def test_a_record_that_no_run_writes_is_refused(key, value, words, tmp_path):
    folder = make_run(tmp_path / "a")
    text = json.dumps(record(2, **{key: "HERE"})).replace('"HERE"', str(value))
    (folder / "metrics.jsonl").write_text(lines([record(0), record(1)]) + text + "\n" + lines([record(3)]))
    refused(read_metrics, folder, words)
    refused(read_records, folder, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no round is recorded yet"),
        (b"{", "its first line is cut off"),
        (b"\n", "line 1: Expecting value"),
        (b"[]\n", "line 1: not a record"),
        (b"\xff\xfe\n", "line 1: 'utf-8'"),
        (b"{}\n", "line 1: has no round"),
        (lines([record(0, None, None)]).encode(), "is not that of an initial model"),
        (lines([record(1), record(2)]).encode(), "line 1: is of round 1, expected 0"),
        (lines([record(0), record(2)]).encode(), "line 2: is of round 2, expected 1"),
        (lines([record(0), record(1), record(1)]).encode(), "line 3: is of round 1, expected 2"),
    ],
)
def test_records_that_are_no_runs_are_refused(content, words, tmp_path):
    folder = make_run(tmp_path / "a")
    (folder / "metrics.jsonl").write_bytes(content)
    refused(read_metrics, folder, words)
    refused(read_records, folder, words)


def test_a_cut_line_is_told_apart_from_a_damaged_one(tmp_path):
    folder = make_run(tmp_path / "a")
    metrics = folder / "metrics.jsonl"
    whole = metrics.read_bytes()
    for kept in range(1, len(lines([record(3)])) - 1):
        metrics.write_bytes(whole[:-kept])
        records, cut = read_metrics(folder)
        # Without its line end a line may still be whole.
        assert ([one["round"] for one in records], cut) == (([0, 1, 2, 3], False) if kept == 1 else ([0, 1, 2], True))
    refused(read_records, folder, "line 4 is cut off")
    metrics.write_bytes(whole.replace(b'"round": 2,', b'"round": 2'))
    refused(read_metrics, folder, "line 3: Expecting ',' delimiter")
    metrics.write_bytes(whole[:-5] + b"\n")
    refused(read_metrics, folder, "line 4: Expecting")


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_a_file_that_is_none_is_refused_without_waiting(name, tmp_path):
    folder = make_run(tmp_path / "a")
    (folder / name).unlink()
    read = read_config if name == "config.json" else read_metrics
    refused(read, folder, "No such file")
    os.mkfifo(folder / name)
    refused(read, folder, "not a regular file")
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(read, folder, "not a regular file")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (f'"seed": {DEEP}', "nested too deeply"),
        ('"target_accuracy": ' + "[" * 300 + "]" * 300, "--target_accuracy [[[[[["),
        (f'"seed": {HUGE}', "10000000000000000000... is too large a number"),
        ('"seed": 9223372036854775808', "is too large a number"),
        ('"init_lr": 1e999', "1e999 is too large a number"),
        ('"init_lr": Infinity', "Infinity is not a number"),
        ('"init_lr": NaN', "NaN is not a number"),
        ('"seed": "3"', "--seed '3': expected an integer >= 0"),
        ('"seed": 3.0', "--seed 3.0: expected an integer"),
        ('"seed": true', "--seed True: expected an integer"),
        ('"seed": null', "--seed None: expected an integer"),
        ('"seed": -1', "--seed -1: expected an integer"),
        ('"init_lr": "0.1"', "--init_lr '0.1': expected a number"),
        ('"data_dir": 5', "--data_dir 5: expected a path"),
        ('"model": ["2nn"]', "--model ['2nn']: expected one of"),
        ('"model": {}', "--model {}: expected one of"),
        (f'"model": "{"x" * 10**5}"', "--model 'xxxx"),
        ('"name": "a\\u001b[2J"', "--name 'a\\x1b[2J': expected letters"),
        ('"quiet": 1', "--quiet 1: expected true or false"),
        ('"target_accuracy": 0.5', "--target_accuracy 0.5: expected a list"),
        ('"target_accuracy": [true]', "--target_accuracy [True]: expected a list"),
        ('"target_accuracy": ["0.5"]', "--target_accuracy ['0.5']: expected a list"),
        ('"target_accuracy": null', "--target_accuracy None: expected a list"),
        ('"x\\u001b": 1', "flags that this version does not know: 'x\\x1b'"),
        (", ".join(f'"flag{i}": 1' for i in range(10**4)), "flags that this version does not know"),
    ],
)
def test_flags_that_no_run_records_are_refused(flags, words, tmp_path):
    folder = make_run(tmp_path / "a")
    (folder / "config.json").write_text('{"script": "federated", ' + flags + "}")
    refused(read_config, folder, words)


@pytest.mark.parametrize("content", ["", "[]", "3", "\ufeff{}", DEEP, '{"script": ["federated"]}', '{"seed": 0}'])
def test_a_config_that_is_no_runs_is_refused(content, tmp_path):
    folder = make_run(tmp_path / "a")
    (folder / "config.json").write_text(content)
    refused(read_config, folder, "config.json: cannot be read")


def test_a_run_is_finished_when_its_summary_speaks_of_its_last_record(tmp_path):
    folder = make_run(tmp_path / "a")
    records = read_records(folder)
    assert is_finished(folder, records)
    assert not is_finished(folder, records[:-1])
    for content in ("", "[]", DEEP, '{"rounds": [3]}', "{}"):
        (folder / "summary.json").write_text(content)
        assert not is_finished(folder, records)
    (folder / "summary.json").unlink()
    assert not is_finished(folder, records)


SPREAD = {"mean": 0.5, "std": 0.1, "worst_decile": 0.25}


@pytest.mark.parametrize(
    ("summary", "found"),
    [
        ({"client_accuracy": SPREAD}, {"before": SPREAD}),
        (
            {"client_accuracy": SPREAD, "personalised": {"before": SPREAD, "after": SPREAD}},
            {"before": SPREAD, "after": SPREAD},
        ),
        ({"personalised": {"before": SPREAD | {"mean": 2}, "after": SPREAD}}, {"after": SPREAD}),
        ({"client_accuracy": 0.5}, {}),
        ({"personalised": [1]}, {}),
        ([], {}),
        ({}, {}),
    ],
)  # fmt: skip
def test_client_tests_are_those_of_the_summary(summary, found, tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert client_tests(tmp_path) == found


def test_a_summary_that_is_none_has_no_client_tests(tmp_path):
    assert client_tests(tmp_path) == {}
    (tmp_path / "summary.json").write_text("{")
    assert client_tests(tmp_path) == {}
