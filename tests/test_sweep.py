"""sweep.py: every cell is checked first, runs go on where they were, and whatever happens no process stays behind."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import compare
import sweep
from fl.check import with_clients
from fl.children import Job, last_words
from fl.command_line import parse
from fl.errors import FlagError
from fl.sweep import check_same, check_stop
from tests.conftest import EITHER, ROOT
from tests.folders import record, starts_in

TINY = (f"{EITHER} --num_clients 4 --num_select_clients 2 --global_epoch 3 --local_epoch 1").replace(
    "--dataset tiny", f"--dataset {ROOT}/tests/tiny.py:tiny"
)
FLAGS = "--model logistic --optimizer sgd --global_epoch 4 --target_accuracy 0.5"


@pytest.fixture
def quick(monkeypatch, tmp_path, capsys, undrawn):
    """quick("--grid init_lr=0.1,0.2 --seeds 2", FLAGS): exit code, stdout and stderr of a sweep of stand-ins."""
    monkeypatch.setattr("fl.children.SCRIPT", ROOT / "tests" / "stand_in.py")

    def run(words, flags=FLAGS):
        capsys.readouterr()
        code = sweep.run([*words.split(), "--out", str(tmp_path / "out"), "--", *flags.split()])
        return code, *capsys.readouterr()

    return run


def starts(tmp_path):
    return starts_in(tmp_path / "out")


def test_every_combination_runs_once_and_is_tabled(quick, tmp_path):
    code, out, err = quick("--grid init_lr=0.1,0.2 --grid batch_size=5,0 --seeds 3 --jobs 2")
    assert (code, err) == (0, "")
    assert out.startswith("12 runs: 4 cells, seeds 0 to 2; 0 done, 48 rounds to go at most, 2 runs at a time\n")
    assert starts(tmp_path) == {
        f"init_lr={lr},batch_size={B}/seed{k}": 1 for lr in ("0.1", "0.2") for B in (5, 0) for k in range(3)
    }
    progress = [line for line in out.splitlines() if line.endswith(" done")]
    assert [line.split(" runs")[0] for line in progress] == [f"{n}/12" for n in range(1, 13)]
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [one["experiment"] for one in table["experiments"]] == [
        "lr=0.1, B=5", "lr=0.1, B=all", "lr=0.2, B=5", "lr=0.2, B=all",
    ]  # fmt: skip
    assert table["experiments"][2]["quantities"]["test_accuracy"]["by_seed"] == pytest.approx(
        {"0": 0.8, "1": 0.81, "2": 0.82}
    )
    worse = table["differences"]["experiments"]["lr=0.2, B=5"]["test_accuracy"]
    assert worse["mean"] == pytest.approx(-0.1)
    assert (worse["n"], worse["within_noise"]) == (3, False)
    assert re.search(r"^lr=0\.2, B=5 +-10\.00 ± 0\.00 \(n=3\) ", out, re.MULTILINE)
    names = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert names == {"table.md", "table.csv", "table.json", "table.tex", "curves.png"}


def test_finished_runs_are_not_started_again_and_the_grid_can_grow(quick, tmp_path):
    first = quick("--grid init_lr=0.1,0.2 --seeds 2")
    table = first[1][first[1].index("\nrun ") :]
    again = quick("--grid init_lr=0.1,0.2 --seeds 2")
    assert again[1].startswith("4 runs: 2 cells, seeds 0, 1; 4 done, 0 rounds to go")
    assert again[1][again[1].index("\nrun ") :] == table
    assert set(starts(tmp_path).values()) == {1}
    _, out, _ = quick("--grid init_lr=0.1,0.2,0.3 --seeds 3")
    assert "9 runs: 3 cells, seeds 0 to 2; 4 done" in out
    assert set(starts(tmp_path).values()) == {1}
    assert len(starts(tmp_path)) == 9
    _, out, _ = quick("--grid init_lr=0.1", f"{FLAGS} --global_epoch 6")  # more rounds of the same
    assert "1 run: 1 cell, seed 0; 0 done, 2 rounds to go" in out
    assert starts(tmp_path)["init_lr=0.1/seed0"] == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [(f"{FLAGS} --batch_size 7", "--batch_size 7: the run in "), ("--optimizer sgd --model logistic --global_epoch 4",
     "--target_accuracy: is nothing by default, and the run in "),
     (f"{FLAGS} --global_epoch 3", "--global_epoch 3: the run in ")],
)  # fmt: skip
def test_a_folder_with_other_flags_is_refused(flags, said, quick, tmp_path):
    quick("--grid init_lr=0.1")
    code, out, err = quick("--grid init_lr=0.1,0.2", flags)
    assert (code, out) == (2, "")
    assert err.startswith(f"sweep.py: {said}")
    assert starts(tmp_path) == {"init_lr=0.1/seed0": 1}


@pytest.mark.parametrize(
    ("grown", "said"),
    [
        ("--target_accuracy 0.5 --stop_at_target", "--stop_at_target: the run in "),
        ("--stop_below 0.9@2", "--stop_below 0.9@2: the run in "),
    ],
)
def test_a_run_that_went_on_past_a_stop_is_refused(grown, said, quick, tmp_path):
    quick("--grid init_lr=0.1")
    code, out, err = quick("--grid init_lr=0.1", f"{FLAGS} {grown}")
    assert (code, out) == (2, "")
    assert err.startswith(f"sweep.py: {said}")
    assert "would have stopped in round 2, and has 4 rounds; ask for what it had, or choose another folder" in err
    assert starts(tmp_path) == {"init_lr=0.1/seed0": 1}


def test_a_run_that_diverged_later_has_the_rounds_before(quick, tmp_path, capsys):
    _, first, _ = quick("--grid init_lr=5", f"{FLAGS} --global_epoch 1")
    _, out, _ = quick("--grid init_lr=5", f"{FLAGS} --global_epoch 4")
    assert "lr=5 (diverged: seed 0)" in out
    code, out, err = quick("--grid init_lr=5", f"{FLAGS} --global_epoch 1")
    assert (code, err) == (0, "")
    assert out[out.index("\nrun ") :] == first[first.index("\nrun ") :]
    assert "lr=5 (diverged" not in out
    _, out, _ = quick("--grid init_lr=5", f"{FLAGS} --global_epoch 4")
    assert "lr=5 (diverged: seed 0)" in out
    assert compare.run([str(tmp_path / "out/init_lr=5.0/seed0"), "--out", str(tmp_path / "c.png")]) == 0
    assert "(diverged)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("had", "now", "differs"),
    [
        ("", "", None),
        ("--num_select_clients 2", "--num_select_clients 2", None),
        ("--num_select_clients 2", "--num_select_clients 3", "num_select_clients 3"),
        ("--num_select_clients 2", "", "num_select_clients"),
        ("--client_fraction 0.5", "--client_fraction 0.5", None),
    ],
)
def test_what_the_data_set_says_is_no_other_flag(had, now, differs):
    """With --partition natural only the data say how many clients there are, and config.json knows it."""

    def config(more):
        flags = f"--dataset csv --label y --client site --partition natural {more}"
        return parse(flags.split(), "federated", "")

    recorded = asdict(with_clients(config(had), 6)) | {"script": "federated"}
    if differs is None:
        check_same(Path("run"), recorded, config(now))
    else:
        with pytest.raises(FlagError, match=f"--{differs}: "):
            check_same(Path("run"), recorded, config(now))


def test_another_partition_is_said_before_the_clients_that_it_has():
    flags = "--dataset csv --label y --client site --num_select_clients"
    recorded = asdict(parse(f"{flags} 2 --num_clients 3".split(), "federated", "")) | {"script": "federated"}
    with pytest.raises(FlagError, match="--partition natural: the run in run has iid"):
        check_same(Path("run"), recorded, parse(f"{flags} 4 --partition natural".split(), "federated", ""))


def test_a_round_that_was_once_the_last_is_no_stop():
    records = [record(0, 0.1), record(1, None, None), record(2, 0.9), record(3, None, None), record(4, 0.9)]
    config = parse(["--target_accuracy", "0.5", "--stop_at_target", "--eval_every", "4"], "federated", "")
    check_stop(Path("run"), records, config)
    with pytest.raises(FlagError, match="--stop_at_target: the run in run would have stopped in round 2, and has 4"):
        check_stop(Path("run"), records, replace(config, eval_every=2))


@pytest.mark.slow
def test_other_data_are_refused_also_for_a_run_that_is_over(tmp_path, capsys):
    for name, border in (("one", 50), ("two", 30)):
        rows = "".join(f"{i},{i % 5},{int(i < border)}\n" for i in range(100))
        (tmp_path / f"{name}.csv").write_text("x,site,y\n" + rows)
    (tmp_path / "moved.csv").write_bytes((tmp_path / "one.csv").read_bytes())
    flags = (
        "--dataset csv --label y --client site --partition natural --model logistic --optimizer sgd --global_epoch 1"
    )

    def run(data):
        words = ["--grid", "init_lr=0.1", "--out", str(tmp_path / "out"), "--", *flags.split()]
        return sweep.run([*words, *([f"--data_dir={tmp_path / data}"] if data else [])]), *capsys.readouterr()

    assert run("one.csv")[0] == 0
    assert "0 done" in run("moved.csv")[1]  # it has to look
    assert "1 done" in run("moved.csv")[1]
    assert run(None)[0] == 3  # where --data_dir is the default, it does not stay what it was
    code, _, err = run("two.csv")
    assert code == 4
    assert "the run had data_sha256" in err
    assert len(err.splitlines()) == 1


def test_a_diverged_run_is_a_result(quick, tmp_path, capsys):
    for _ in range(2):
        code, out, err = quick("--grid init_lr=5,0.1 --seeds 2")
        assert (code, err) == (0, "")
        rows = [line for line in out.splitlines() if line.startswith("lr=")]
        assert rows[0].split()[:6] == ["lr=5", "(diverged:", "seeds", "0,", "1)", "0"]
        assert rows[1].split()[:2] == ["lr=0.1", "2"]
        assert set(starts(tmp_path).values()) == {1}
    marks = sorted((tmp_path / "out").glob("*/*/diverged.txt"))
    assert [mark.read_text() for mark in marks] == ["round 2: the model is not finite\n"] * 2
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert table["experiments"][0]["quantities"]["test_accuracy"]["n"] == 0
    assert table["differences"]["against"] == "lr=0.1"  # the first row that has figures
    assert table["differences"]["experiments"]["lr=5 (diverged: seeds 0, 1)"]["test_accuracy"]["n"] == 0
    capsys.readouterr()
    assert compare.run([*map(str, (mark.parent for mark in marks)), "--out", str(tmp_path / "c.png")]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "(diverged)" in line)
    assert row.split()[:4] == ["fedavg", "(diverged)", "2", "-"]  # and not the accuracy of an earlier model
    code, out, _ = quick("--grid init_lr=5,0.1,0.2 --seeds 3")
    assert "against lr=0.1, paired by seed" in out
    assert re.search(r"^lr=0\.2 +-10\.00 ± 0\.00 \(n=3\) ", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("lr", "code", "said"), [(7, 3, "data/: there is no such data ("), (11, 6, "was killed by signal 9")]
)
def test_another_failure_ends_the_sweep_and_all_its_runs(lr, code, said, quick, tmp_path):
    found, _, err = quick(f"--grid init_lr=9,{lr},0.1 --jobs 2")
    assert found == code
    assert len(err.splitlines()) == 1
    assert said in err
    assert (tmp_path / "out" / "init_lr=9.0" / "seed0" / "stopped").exists()
    assert not (tmp_path / "out" / "init_lr=0.1").exists()
    assert not (tmp_path / "out" / "table.md").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_runs_in_good_order(number, quick, tmp_path):
    def strike():
        deadline = time.monotonic() + 20
        while len(list((tmp_path / "out").glob("*/seed0/metrics.jsonl"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getppid(), number)

    child = os.fork()
    if child == 0:
        strike()
        os._exit(0)
    code, _, err = quick("--grid init_lr=9 --grid batch_size=1,2 --jobs 2")
    os.waitpid(child, 0)
    assert (code, err) == (130, "sweep.py: interrupted; give the command again to go on\n")
    assert len(list((tmp_path / "out").glob("*/seed0/stopped"))) == 2


@pytest.mark.parametrize(
    ("words", "flags", "said"),
    [
        ("--grid init_lr", "", "--grid init_lr: expected FLAG=VALUE,VALUE"),
        ("--grid lr=1,2", "", "--grid lr=1,2: there is no flag --lr"),
        ("--grid init_lr=1,1.0", "", "--grid init_lr=1,1.0: has 1.0 twice"),
        ("--grid init_lr=1 --grid init_lr=2", "", "--grid init_lr: is given twice"),
        ("--grid init_lr=0.1,x", "", "--init_lr x: expected a number"),
        ("--grid seed=1,2", "", "--grid seed=1,2: a sweep sets --seed itself; see --seeds"),
        ("--grid grey=yes", "", "--grid grey=yes: expected on or off"),
        ("--grid init_lr=0.1", "--seed 3", "--seed 3: a sweep sets this flag itself"),
        ("--grid init_lr=0.1", "--quiet", "--quiet True: a sweep sets this flag itself"),
        ("--grid momentum=0,0.9", "", "--momentum 0.9: needs --optimizer sgd"),
        ("--grid init_lr=0.1,", "", "--grid init_lr=0.1,: has an empty value"),
        ("--grid epoch=1,2", "", "--grid epoch=1,2: --epoch does nothing in any of these runs"),
        ("--grid init_lr=0.1 --seeds 10001", "", "--seeds 10001: expected an integer from 1 to 10,000"),
        ("--grid init_lr=0.1 --seeds 0", "", "--seeds 0: expected an integer from 1"),
        ("--grid init_lr=0.1 --jobs two", "", "--jobs two: expected an integer from 1"),
        ("--grid init_lr=0.1", "-h", "-h: does not go with a sweep"),
        ("--grid init_lr=0.1", "--init_lr 0.2 0.3", "0.3: a value without a flag"),
        ("--grid keep_optimizer_state=on", "--keep_optimizer_state off", "off: a value without a flag"),
        ("--grid init_lr=0.1 --seed 2", "", "unrecognized arguments: --seed 2"),
    ],
)  # fmt: skip
def test_flags_are_refused_before_anything_starts(words, flags, said, quick, tmp_path):
    code, out, err = quick(words, flags)
    assert (code, out) == (2, "")
    assert err.startswith(f"sweep.py: {said}")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_values_with_commas_and_switches(quick, tmp_path):
    code, _, _ = quick("--grid hidden=5;6,7 --grid keep_optimizer_state=on,off", f"{FLAGS} --model mlp")
    assert code == 0
    assert sorted(starts(tmp_path)) == [
        "hidden=5,keep_optimizer_state=off/seed0", "hidden=5,keep_optimizer_state=on/seed0",
        "hidden=6,7,keep_optimizer_state=off/seed0", "hidden=6,7,keep_optimizer_state=on/seed0",
    ]  # fmt: skip
    flags = json.loads((tmp_path / "out/hidden=6,7,keep_optimizer_state=on/seed0/config.json").read_text())
    assert (flags["hidden"], flags["keep_optimizer_state"]) == ("6,7", True)


def test_sets_of_labels_have_a_sign_of_their_own_between_them(quick, tmp_path):
    flags = f"{FLAGS} --partition label_sets --num_clients 2 --num_select_clients 1"
    code, out, _ = quick("--grid label_sets=0,1,2,3,4;5,6,7,8,9|5,6,7,8,9;0,1,2,3,4", flags)
    assert code == 0
    assert "labels 0,1,2,3,4;5,6,7,8,9 " in out
    assert "labels 5,6,7,8,9;0,1,2,3,4 " in out
    code, _, err = quick("--grid label_sets=0,1,2,3,4;5,6,7,8,9;1", flags)
    assert code == 2
    assert "--num_clients is 2; expected a set for each client" in err


def test_the_grid_wins_over_other_flags_and_presets(quick, tmp_path):
    (tmp_path / "preset").write_text("--keep_optimizer_state --target_accuracy 0.9 --init_lr -1\n")
    grid = "--grid keep_optimizer_state=on,off --grid target_accuracy=0.3 --grid init_lr=0.1"
    assert quick(grid, f"@{tmp_path / 'preset'} {FLAGS}")[0] == 0
    told = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("*/seed0/config.json"))]
    assert [(one["keep_optimizer_state"], one["target_accuracy"]) for one in told] == [(False, [0.3]), (True, [0.3])]
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    names = [one["experiment"].partition(",")[0] for one in table["experiments"]]
    assert names == ["keep optimizer state", "keep_optimizer_state=off"]


def test_values_that_are_alike_to_six_digits_have_rows_of_their_own(quick, tmp_path, capsys):
    _, out, _ = quick("--grid init_lr=0.1000001,0.1000002")
    assert re.findall(r"^lr=\S+", out, re.MULTILINE)[:2] == ["lr=0.1000001", "lr=0.1000002"]
    assert compare.run([*map(str, (tmp_path / "out").glob("*/seed0")), "--out", str(tmp_path / "c.png")]) == 0
    assert {"lr=0.1000001", "lr=0.1000002"} <= set(capsys.readouterr().out.split())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_a_sweep_that_is_killed_takes_its_runs_with_it(tmp_path):
    """Each of them ends in good order, and its log keeps what it said before."""
    script, folder = ROOT / "tests" / "stand_in.py", tmp_path / "init_lr=9" / "seed0"
    job = ["--model", "logistic", "--optimizer", "sgd", "--init_lr", "9", "--global_epoch", "2"]
    code = f"import fl.children as c, pathlib; c.SCRIPT = pathlib.Path({str(script)!r}); " \
           f"list(c.ended([c.Job(pathlib.Path({str(folder)!r}), {job!r}, 2)], 1, lambda running: None))"  # fmt: skip
    folder.parent.mkdir()
    folder.with_name("seed0.log").write_text("said before\n")
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    wait_for(folder / "metrics.jsonl")
    parent.kill()
    parent.wait()
    wait_for(folder / "stopped")
    assert folder.with_name("seed0.log").read_text().startswith("said before\n")


def test_the_reason_of_a_failure_is_that_of_the_last_start(quick, tmp_path):
    """The log keeps the line of an earlier start, which is not why this one ended."""
    log = tmp_path / "out" / "init_lr=11.0" / "seed0.log"
    log.parent.mkdir(parents=True)
    log.write_text("== started\nstand_in.py: another reason\n")
    assert last_words(Job(log.with_name("seed0"), [], 1)).endswith("another reason")
    assert quick("--grid init_lr=11,9 --jobs 2")[0] == 6
    assert log.read_text().startswith("== started\nstand_in.py: another reason\n== started ")
    assert last_words(Job(log.with_name("seed0"), [], 1)).endswith("failed and said nothing")


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists()


def test_what_there_is_to_warn_of_is_said_once(quick):
    code, _, err = quick("--grid batch_size=1,2,3", f"{FLAGS} --epoch 3")
    assert (code, err) == (0, "warning: --epoch: does nothing in run_federated.py, only in run_baseline.py\n")


def test_dry_run_times_a_round_and_starts_nothing(quick, tmp_path, capsys):
    code, out, err = quick("--grid init_lr=0.1,0.2 --seeds 3 --jobs 2 --dry_run", TINY)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("6 runs: 2 cells, seeds 0 to 2; 0 done, 18 rounds to go at most")
    assert out.splitlines()[1].startswith("lr=0.1: 3 runs, about ")
    assert out.splitlines()[3].startswith("all: about ")
    assert not (tmp_path / "out").exists()


def command_line(out, grid, seeds):
    return [sys.executable, "sweep.py", *grid.split(), "--seeds", str(seeds), "--jobs", "2", "--out", str(out), "--",
            *TINY.split()]  # fmt: skip


TWELVE = "--grid init_lr=0.05,0.1 --grid batch_size=5,0"  # with three seeds


def untimed(out: Path) -> dict:
    """The table without seconds, which no two sweeps share."""
    told = json.loads((out / "table.json").read_text())
    for one in told["experiments"]:
        del one["quantities"]["round_seconds"]
    return told


@pytest.mark.slow
def test_real_runs_are_those_of_the_script(tmp_path, command):
    done = subprocess.run(
        command_line(tmp_path / "out", "--grid algorithm=fedavg,scaffold", 1),
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((tmp_path / "out" / "algorithm=scaffold" / "seed0" / "summary.json").read_text())
    alone = command("federated", f"{TINY} --algorithm scaffold", folder="alone")
    assert found["model_sha256"] == alone.sha256


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    """The table of a sweep of 12 runs that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole")
    done = subprocess.run(command_line(out, TWELVE, 3), cwd=ROOT, capture_output=True, timeout=300)
    assert done.returncode == 0
    return untimed(out)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(3))
def test_a_killed_sweep_goes_on_to_the_same_table(turn, whole, tmp_path):
    killed = subprocess.Popen(
        command_line(tmp_path, TWELVE, 3), cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(random.Random(turn).uniform(2, 15))
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "table.json").exists()  # or it would not have been killed in time
    again = subprocess.run(command_line(tmp_path, TWELVE, 3), cwd=ROOT, capture_output=True, timeout=300)
    assert (again.returncode, again.stderr) == (0, b"")
    assert untimed(tmp_path) == whole
