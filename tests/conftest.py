"""Shared by all tests: a tiny data set, one thread, and runs in this process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import run_baseline
import run_federated
import sweep

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _heed_signals() -> None:
    """Shells start background jobs with Ctrl-C ignored, nohup ignores SIGHUP, and a run would rightly respect it."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(scope="session", autouse=True)
def _no_proxy() -> None:
    """Mirrors on this machine are reached directly."""
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process and all that it starts make their temporary files."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


OWN_FILE = ROOT / "tests" / "own.py"
OWN = OWN_FILE.read_text() + "\nfrom dataclasses import replace\n"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the user's own, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(OWN_FILE, tmp_path))


def without_times(line: dict[str, Any]) -> dict[str, Any]:
    """A record or a summary without the keys that hold measured times."""
    return {k: v for k, v in line.items() if not k.endswith("_seconds") or k == "simulated_seconds"}


class Done(NamedTuple):
    """A finished command: what it printed, and what it left in its run folder."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())

    @property
    def sha256(self) -> str:
        return self.summary["model_sha256"]

    @property
    def untimed(self) -> list[dict[str, Any]]:
        """The records without the keys that hold measured times."""
        return [without_times(record) for record in self.records]


Runner = Callable[..., Done]
EITHER = "--dataset tiny --model logistic --optimizer sgd --init_lr 0.1 --batch_size 5 --device cpu"
SMALL = f"{EITHER} --num_clients 4 --num_select_clients 2 --global_epoch 3 --local_epoch 2"
SMALL_BASELINE = f"{EITHER} --epoch 3"


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    """command("federated", flags, folder="a"): run a script on the tiny data set; flags come after SMALL."""

    def run(script: str, flags: str = "", folder: str | None = None) -> Done:
        path = tmp_path / (folder or f"run{len(list(tmp_path.iterdir()))}")
        # A resumed or matching run takes its flags from a run folder.
        small = (
            []
            if "--resume" in flags or "--match" in flags
            else {"federated": SMALL, "baseline": SMALL_BASELINE}[script].split()
        )
        argv = [*small, "--run_dir", str(path), *flags.split()]
        capsys.readouterr()
        code = {"federated": run_federated, "baseline": run_baseline}[script].run(argv)
        return Done(code, *capsys.readouterr(), path)

    return run


@pytest.fixture
def same_anyhow(command: Runner) -> Callable[..., Done]:
    """same_anyhow(flags): the finished run, once it is sure that it is the same however it is run.

    That is, the same bits, records and summary: in one go; stopped after its second round and resumed; and, with
    `workers`, in two processes. The flags must ask for more than two rounds.
    """

    def run(flags: str, workers: bool = True) -> Done:
        whole = command("federated", flags, folder="whole")
        assert whole.code == 0, whole.err
        last = whole.summary["rounds"]
        assert last > 2
        assert command("federated", f"{flags} --global_epoch 2", folder="cut").code == 0
        others = [command("federated", f"--resume --global_epoch {last}", folder="cut")]
        if workers:
            others.append(command("federated", f"{flags} --workers 2", folder="two"))
        for other in others:
            assert other.code == 0, other.err
            assert other.untimed == whole.untimed
            assert without_times(other.summary) == without_times(whole.summary)  # with the SHA-256 of the model
        return whole

    return run


@pytest.fixture
def real_pictures() -> None:
    """For tests of what is drawn. In all others runs draw nothing, because that would take most of their time."""


@pytest.fixture(autouse=True)
def _plain_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_pictures" not in request.fixturenames:
        from fl.pictures import client_picture, ledger, plot, style

        drawn = [(plot, "save_curves"), (plot, "save_partition"), (plot, "save_drift"), (ledger, "save_ledger"),
                 (client_picture, "save_clients"), (client_picture, "save_personalised")]  # fmt: skip
        for module, name in drawn:
            monkeypatch.setattr(module, name, lambda path, *_: style.write_atomic(path, b"a picture"))


@pytest.fixture(autouse=True)
def _one_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run and its resumption have one commit, whatever is committed meanwhile; it also spares git's start."""
    monkeypatch.setattr("fl.environment.git_commit", lambda: "one commit")


@pytest.fixture
def undrawn(monkeypatch):
    """The table without the picture, which takes a second."""
    monkeypatch.setattr("fl.pictures.comparison.save_comparison", lambda path, *_: path.write_text("drawn"))


SWEPT = "--model logistic --optimizer sgd --global_epoch 4 --target_accuracy 0.5"  # flags of runs in a sweep


@pytest.fixture
def quick(monkeypatch, tmp_path, capsys, undrawn):
    """quick("--grid init_lr=0.1,0.2 --seeds 2", SWEPT): exit code, stdout and stderr of a sweep of stand-ins."""
    monkeypatch.setattr("fl.sweeps.children.SCRIPT", ROOT / "tests" / "stand_in.py")

    def run(words, flags=SWEPT):
        capsys.readouterr()
        code = sweep.run([*words.split(), "--out", str(tmp_path / "out"), "--", *flags.split()])
        return code, *capsys.readouterr()

    return run
