"""Kill -9 at random moments, resume, and compare with the run that nobody disturbed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

FLAGS = "--dataset tiny --model 2nn --optimizer adam --init_lr 0.01 --batch_size 5 --num_clients 6 --device cpu " \
        "--num_select_clients 3 --global_epoch 12 --quiet --keep_optimizer_state --augment crop_flip"  # fmt: skip


def child(argv: list[str], cut: tuple[int, float] | None) -> None:
    """Run a script; cut = (n, share) kills it in its n-th write of a checkpoint, after that share of the bytes.

    Below 1 the operating system ends the process at a file size; above 1, just before or after the rename.
    """
    import torch

    import fl.records.checkpoint
    import run_federated

    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if cut:
        number, share = cut
        whole = fl.records.checkpoint.write_atomic
        rename = os.replace
        calls = 0

        def write(path: Path, content: bytes) -> None:
            nonlocal calls
            calls += 1
            if calls == number and share < 1:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(len(content) * share),) * 2)
            elif calls == number:
                os.replace = killed_at_rename
            whole(path, content)

        def killed_at_rename(old: Path, new: Path) -> None:
            if share > 1.5:
                rename(old, new)
            os.kill(os.getpid(), signal.SIGKILL)

        fl.records.checkpoint.write_atomic = write
    os._exit(run_federated.run(argv))


def results(folder: Path) -> tuple[str, list[dict]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    untimed = [{k: v for k, v in record.items() if not k.endswith("_seconds")} for record in records]
    return json.loads((folder / "summary.json").read_text())["model_sha256"], untimed


@pytest.fixture(scope="module")
def context():
    made = multiprocessing.get_context("forkserver")  # children share the imports, not this process's threads
    made.set_forkserver_preload(
        ["tests", "run_federated", "fl.rounds", "fl.record", "fl.pictures.plot", "fl.engines.sequential"]
    )
    return made


@pytest.mark.parametrize("moments", [range(6), pytest.param(range(20), marks=pytest.mark.slow)])
def test_killed_and_resumed_ends_with_the_same_bits(moments, tmp_path, context):
    def run(argv, cut=None, kill_after=None):
        process = context.Process(target=child, args=(argv, cut))
        process.start()
        if kill_after is not None:
            time.sleep(kill_after)
            process.kill()
        process.join(120)
        return process.exitcode

    def argv(folder):
        return [*FLAGS.split(), "--run_dir", str(tmp_path / folder)]

    assert run(argv("warm-up")) == 0
    began = time.perf_counter()
    assert run(argv("whole")) == 0
    duration = time.perf_counter() - began
    expected = results(tmp_path / "whole")
    assert len(expected[1]) == 13

    def strike(moment):
        """Kill a run, resume it and compare; the exit code of the run that was killed."""
        folder, draw = f"killed{moment}", random.Random(moment)
        if moment % 2:
            share = draw.choice([draw.random(), 1.2, 1.7])
            code = run(argv(folder), cut=(draw.randint(1, 13), share))
        else:
            limit = duration
            while (code := run(argv(folder), kill_after=draw.uniform(0.02, limit))) == 0:  # came too late
                shutil.rmtree(tmp_path / folder)
                limit *= 0.8
        interrupted = [path.name for path in (tmp_path / folder).glob("*")] if (tmp_path / folder).exists() else []
        # The same command line again: what a scheduler does.
        assert run([*argv(folder), "--resume"]) == 0, (moment, interrupted)
        assert results(tmp_path / folder) == expected, moment
        assert not list((tmp_path / folder).glob(".*"))
        return code

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(strike, moments))
    in_writes, at_random = found[1::2], found[::2]
    assert set(in_writes) == {-signal.SIGKILL, -signal.SIGXFSZ}  # at a rename, within the bytes
    assert set(at_random) == {-signal.SIGKILL}
