"""Several processes: the same result for any number of them, and a clean end when one of them is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import run_federated
from fl.engines import make_engine
from fl.engines.sequential import Sequential
from fl.group import Group
from fl.processes.workers import start
from tests.conftest import ROOT, SMALL
from tests.rounds import run_rounds
from tests.sweeps import members
from tests.test_engines import OPTIMIZERS
from tests.test_golden import close, config, ragged, task_of

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")


def rounds_of(c, group):
    """The rounds of one rank on three ragged clients in float64."""
    task = task_of(c)
    engine = make_engine("stacked", replace(task, partition=ragged()))
    return list(run_rounds(task, ragged(), engine, c, group))


@pytest.mark.parametrize(("optimizer", "size"), [("sgd", 2), ("momentum", 3), ("adam", 2)])
def test_workers_equal_the_sequential_engine(size, optimizer, monkeypatch):
    if size == 3:
        monkeypatch.delattr(os, "memfd_create", raising=False)  # as on macOS, where ranks meet over a file in a folder
    c = config(model="small_cnn", engine="distributed", **OPTIMIZERS[optimizer])
    with start(c, size, rounds_of) as group:
        together = rounds_of(c, group)
    task = task_of(c)
    alone = list(run_rounds(task, ragged(), Sequential(task.model, task.data, ragged(), c), c))
    for one, other in zip(alone, together, strict=True):
        close(one.w, other.w, 1e-9)
        for key in ("test_accuracy", "test_loss", "train_loss"):
            a, b = one.record[key], other.record[key]
            assert a == b or a == pytest.approx(b, rel=1e-9)
        for key in ("clients", "examples", "local_steps", "uplink_bytes"):
            assert one.record[key] == other.record[key]


TWO_STARTS = """
import threading, time
from torch.distributed import FileStore
from fl.processes.workers import meeting_place

def store():
    with meeting_place() as (path, _):
        return FileStore(path, 2)

earlier = store()
earlier.set("a", "earlier")
threading.Thread(target=earlier.wait, args=[["a key that nobody sets"]], daemon=True).start()
later = store()
for key in "ab":
    later.set(key, 500 * key)
    time.sleep(0.1)  # in which the earlier one reads
assert (earlier.get("a"), later.get("a"), later.get("b")) == (b"earlier", 500 * b"a", 500 * b"b")
"""


def test_the_store_of_an_earlier_start_does_not_disturb_the_next():
    """It may still read under its path, and would lock for ever what it finds there in place of its own file."""
    subprocess.run([sys.executable, "-c", TWO_STARTS], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_clients_are_shared_out_once_and_by_size(size):
    clients, sizes = list(range(10, 30)), [((k * 37) % 11) + 1 for k in range(20)]
    shares = []
    for rank in range(size):
        group = Group()
        group.rank, group.size = rank, size
        shares.append(group.share(dict(zip(clients, sizes, strict=True))))
    assert sorted(k for share in shares for k in share) == clients
    assert all(share == sorted(share) for share in shares)
    loads = [sum(sizes[k - 10] for k in share) for share in shares]
    assert max(loads) - min(loads) <= max(sizes)


FLAGS = [*SMALL.split(), "--model", "small_cnn", "--num_select_clients", "3", "--quiet", "--target_accuracy", "0.5"]


def run(folder: Path, *flags: object, launcher: tuple[str, ...] = (), wait: bool = True) -> subprocess.Popen:
    code = "import sys, tests.conftest, run_federated as s; sys.exit(s.run(sys.argv[1:]))"
    if launcher:
        script = folder.parent / "main.py"
        script.write_text(code)
        command = [sys.executable, "-m", *launcher, str(script)]
    else:
        command = [sys.executable, "-c", code]
    process = subprocess.Popen(
        [*command, *FLAGS, "--run_dir", str(folder), *map(str, flags)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    if wait:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.count("Test Accuracy = ") == 1
    return process


def results(folder: Path):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    untimed = [{k: v for k, v in record.items() if not k.endswith("_seconds")} for record in records]
    return json.loads((folder / "summary.json").read_text())["model_sha256"], untimed


def run_here(folder: Path, *flags: object) -> None:
    """As `run`, with rank 0 in this process."""
    assert run_federated.run([*FLAGS, "--run_dir", str(folder), *map(str, flags)]) == 0


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bits_also_under_torchrun(tmp_path):
    for workers in (1, 2, 3):
        run_here(tmp_path / str(workers), "--engine", "distributed", "--workers", workers)
    run(tmp_path / "torchrun", launcher=("torch.distributed.run", "--standalone", "--nproc_per_node", "2"))
    run_here(tmp_path / "stacked", "--engine", "stacked")
    for folder in ("2", "3", "torchrun", "stacked"):
        assert results(tmp_path / folder) == results(tmp_path / "1")
    environment = json.loads((tmp_path / "2" / "environment.json").read_text())
    assert (environment["engine"], environment["workers"], environment["threads"]) == ("stacked", 2, 1)


KEPT = ("--momentum", "0.9", "--keep_optimizer_state", "--num_clients", "5", "--model", "logistic")


@pytest.mark.slow
def test_kept_optimizer_states_go_with_their_clients(tmp_path):
    """A client's state is right on whichever process trains it next, also after the run was stopped."""
    run_here(tmp_path / "1", *KEPT, "--engine", "sequential")
    for workers in (2, 3):
        run_here(tmp_path / str(workers), *KEPT, "--engine", "distributed", "--workers", workers)
    run_here(tmp_path / "stopped", *KEPT, "--engine", "distributed", "--workers", 2, "--global_epoch", 1)
    names = {path.name for path in (tmp_path / "stopped" / "clients").iterdir()}
    assert len(names) == 3
    assert all(name.endswith("-1.pt") for name in names)
    run_here(tmp_path / "stopped", *KEPT, "--resume", "--workers", 3, "--global_epoch", 3)
    run(tmp_path / "torchrun", *KEPT, launcher=("torch.distributed.run", "--standalone", "--nproc_per_node", "2"))
    for folder in ("2", "3", "stopped", "torchrun"):
        assert results(tmp_path / folder) == results(tmp_path / "1"), folder
    run_here(tmp_path / "fresh", *KEPT[:2], *KEPT[3:], "--engine", "sequential")
    assert results(tmp_path / "fresh") != results(tmp_path / "1")  # or the test could not fail


def test_a_run_to_a_target_ends_for_all_workers(tmp_path):
    run_here(tmp_path / "a", "--engine", "distributed", "--workers", 2, "--stop_at_target", "--global_epoch", 40)
    assert len(results(tmp_path / "a")[1]) < 41


def worker_of(process: subprocess.Popen) -> int:
    """The process that trains beside rank 0."""
    (worker,) = (pid for pid in members(process.pid) if pid != process.pid)
    return worker


def gone(session: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while members(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not members(session)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")


def started(folder: Path, *flags: object, lines: int = 5) -> subprocess.Popen:
    """A run of many rounds, in the middle of one of them."""
    process = run(folder, "--engine", "distributed", "--workers", 2, "--global_epoch", 2000, *flags, wait=False)
    deadline = time.monotonic() + 60
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") > lines):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    return process


@needs_proc
@pytest.mark.parametrize("sign", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGSTOP])
def test_a_lost_worker_ends_the_run_and_resume_continues_it(sign, tmp_path):
    timeout = 10
    process = started(tmp_path / "a", "--timeout", timeout)
    began = time.monotonic()
    os.kill(worker_of(process), sign)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 6
    assert time.monotonic() - began < timeout + 10
    assert [line for line in err.splitlines() if line.startswith("run_federated.py: rank 0 of 2")]
    assert "Traceback" not in err
    assert gone(process.pid)
    if sign == signal.SIGSTOP:
        return  # from here on as for the other
    rounds = len((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()) + 2
    more = ("--timeout", 120, "--global_epoch", rounds)  # the short one counts for the start of workers too
    run_here(tmp_path / "a", "--resume", "--engine", "distributed", "--workers", 3, *more)
    run_here(tmp_path / "b", "--engine", "distributed", "--workers", 1, "--global_epoch", rounds)
    assert results(tmp_path / "a") == results(tmp_path / "b")


@needs_proc
@pytest.mark.parametrize(
    "sign", [signal.SIGKILL, *(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGINT, signal.SIGTERM))]
)
def test_workers_do_not_outlive_the_first_process(sign, tmp_path):
    process = started(tmp_path / "a")
    os.kill(process.pid, sign)
    process.communicate(timeout=60)
    assert process.returncode == (-sign if sign == signal.SIGKILL else 130)
    assert gone(process.pid)


def test_batchnorm_counters_across_workers(monkeypatch):
    """The buffers of a rank without a client of its own take part as well."""
    c = config(model="bn", engine="distributed", num_select_clients=1, batch_size=2)
    with start(c, 2, bn_rounds) as group:
        together = bn_rounds(c, group)
    alone = bn_rounds(c, Group())
    close(together[-1].w, alone[-1].w, 1e-9)


def bn_rounds(c, group):
    from fl.experiment import federated
    from fl.models import MODELS

    MODELS["bn"] = "tests.test_golden:bn_net"
    task = task_of(c)
    task = replace(task, data=federated(c).data.to(task.device, torch.float64))
    del MODELS["bn"]
    partition = ragged((7, 4, 2))
    return list(run_rounds(task, partition, Sequential(task.model, task.data, partition, c), c, group))
