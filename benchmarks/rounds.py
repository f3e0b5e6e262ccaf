"""Seconds a round: our engines, the bare loop, centralised training and, where installed, pfl and Flower.

    python3 -m benchmarks.rounds --workload cnn --workload 2nn --out benchmarks/results

All contenders of a workload live at once, each in its own process, and take turns, so that a change of the
machine's speed meets all of them. A turn is a few rounds back to back, as in a run. Medians after a warm-up turn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.contenders import ALGORITHMS, CONTENDERS, ON_GPU, WORKLOADS

TURNS = {"cnn": 5, "2nn": 5, "logistic": 5, "default": 2, "gn_cnn": 2, "lenet": 5, "cifar_cnn": 3,
         "char_lstm": 3, "blazefl": 1, "flute": 5}  # fmt: skip
# Rounds a turn.
BURST = {"cnn": 1, "2nn": 10, "logistic": 50, "default": 1, "gn_cnn": 1, "lenet": 5, "cifar_cnn": 1,
         "char_lstm": 1, "blazefl": 1, "flute": 20}  # fmt: skip
OURS = ("sequential", "stacked", "distributed")
# Of networks that convolutions make up: examples a round, and floating-point operations an example, forward and
# backward; and the channels, side and padding of the second convolution, which does most of the work.
CONVOLUTIONS = {"cnn": (6000, 56.1e6, (32, 64, 14, 1)), "cifar_cnn": (5000, 186.8e6, (64, 64, 16, 2))}


HERE = Path(__file__).resolve().parents[1]


class Contender:
    """A contender's process; that of another checkout has its folder's name behind the contender's."""

    def __init__(self, name: str, workload: str, checkout: Path = HERE):
        self.name = name if checkout == HERE else f"{name}, {checkout.name}"
        self.seconds: list[float] = []
        self.trouble: str | None = None
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody reads would fill up
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contenders", name, workload],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, cwd=checkout,
        )  # fmt: skip

    def turn(self, rounds: int) -> None:
        """Some rounds; a contender that fails is left out from then on, with its reason."""
        if self.trouble:
            return
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(f"{rounds}\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline() or "null")
        except BrokenPipeError:
            answer = None
        if isinstance(answer, list):
            self.seconds += answer
            return
        self.process.kill()
        self.log.seek(0)
        last = (self.log.read().strip().splitlines() or ["no answer"])[-1]
        self.trouble = answer or last

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def best_convolution_rate(channels: int, out: int, side: int, padding: int) -> float:
    """FLOP/s of a 5x5 convolution, forward or backward, the best over batch sizes and thread counts."""
    import torch

    best = 0.0
    threads_before = torch.get_num_threads()
    for threads in {1, os.cpu_count() or 1}:
        torch.set_num_threads(threads)
        for B in (10, 50, 100, 200):
            x = torch.randn(B, channels, side, side).to(memory_format=torch.channels_last).requires_grad_()
            conv = torch.nn.Conv2d(channels, out, 5, padding=padding).to(memory_format=torch.channels_last)
            after = side + 2 * padding - 4
            flop = 2 * B * out * after * after * channels * 25
            g = torch.randn(B, out, after, after).to(memory_format=torch.channels_last)
            forward, backward = [], []
            for _ in range(20):
                began = time.perf_counter()
                y = conv(x)
                middle = time.perf_counter()
                y.backward(g)
                backward.append(time.perf_counter() - middle)
                forward.append(middle - began)
            best = max(best, flop / median(forward), 2 * flop / median(backward))
    torch.set_num_threads(threads_before)
    return best


def measure(workload: str, turns: int, names: Iterable[str], against: Path | None = None) -> dict[str, Any]:
    contenders = [Contender(name, workload) for name in names]
    if against:
        contenders += [Contender(name, workload, against) for name in names if name in OURS]
    for turn in range(1 + turns):
        for i in range(len(contenders)):
            contenders[(turn + i) % len(contenders)].turn(BURST[workload])
        print(f"{workload}: turn {turn} of {turns}", file=sys.stderr)
    for contender in contenders:
        contender.close()
    result: dict[str, Any] = {
        "workload": workload,
        "data": WORKLOADS[workload].get("dataset", "mnist"),
        "rounds": turns * BURST[workload],
        "seconds": {c.name: c.seconds[BURST[workload] :] for c in contenders if not c.trouble},
        "left_out": {c.name: c.trouble for c in contenders if c.trouble},
    }
    if workload in CONVOLUTIONS and {*OURS} & {*names} and not ON_GPU:
        result["best_convolution_flops"] = best_convolution_rate(*CONVOLUTIONS[workload][2])
    return result


def table(result: dict[str, Any], against: Path | None = None) -> str:
    medians = {name: median(values) for name, values in result["seconds"].items()}
    if "fedavg" in medians:
        lines = [f"{result['workload']}: seconds a round on the stacked engine, median of {result['rounds']}"]
        for name, value in medians.items():
            lines.append(f"  {name:20s} {value:9.4f}  {value / medians['fedavg']:5.2f} times fedavg's")
        return "\n".join(lines)
    if against:
        lines = [f"{result['workload']}: seconds a round, medians of {result['rounds']}, and the speed against the old"]
        for name in (name for name in OURS if name in medians):
            old = medians[f"{name}, {against.name}"]
            lines.append(f"  {name:12s} {medians[name]:9.4f}  old {old:9.4f}  {old / medians[name]:5.2f} times")
        return "\n".join(lines)
    left_out = [f"  {name:20s} left out: {reason}" for name, reason in result["left_out"].items()]
    peers = [name for name in medians if name.startswith(("bare", "pfl", "flower"))] or list(medians)
    if not peers:
        return "\n".join([f"{result['workload']}: nobody finished", *left_out])
    fastest = min(peers, key=medians.__getitem__)
    lines = [
        f"{result['workload']} on {result['data']}: seconds a round, median of {result['rounds']}; the fastest peer is "
        f"{fastest}"
    ]
    for name, value in sorted(medians.items(), key=lambda pair: pair[1]):
        values = result["seconds"][name]
        lines.append(
            f"  {name:20s} {value:9.4f}  ({min(values):.4f} to {max(values):.4f})"
            f"  {medians[fastest] / value:6.2f} times as fast as the fastest peer"
        )
    lines += left_out
    if "best_convolution_flops" in result:
        fastest_ours = min(medians[name] for name in OURS if name in medians)
        examples, flop, _ = CONVOLUTIONS[result["workload"]]
        achieved, best = examples * flop / fastest_ours, result["best_convolution_flops"]
        lines.append(
            f"  our fastest: {achieved / 1e9:.0f} GFLOP/s, {achieved / best:.0%} of the best convolution rate measured "
            f"in this run, {best / 1e9:.0f} GFLOP/s"
        )
    return "\n".join(lines)


def installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="default: cnn, 2nn and logistic")
    parser.add_argument("--turns", type=int, default=0, help="turns after warm-up (default: by workload)")
    parser.add_argument("--out", default="benchmarks/results", help="folder of the JSON (default: %(default)s)")
    parser.add_argument("--algorithms", action="store_true", help="the algorithms against each other, no peers")
    parser.add_argument("--only", action="append", choices=list(CONTENDERS), help="this contender; repeatable")
    parser.add_argument("--against", type=Path, help="another checkout: our engines there and here, no peers")
    words = parser.parse_args()
    names = list(ALGORITHMS if words.algorithms else words.only or CONTENDERS)
    against = words.against and words.against.resolve()
    if against:
        names = [name for name in names if name in OURS]
    import torch

    from fl.device import device_name

    device = torch.device(os.environ.get("BENCHMARK_DEVICE", "cpu"))
    for workload in words.workload or ["logistic", "2nn", "cnn"]:
        result = measure(workload, words.turns or TURNS[workload], names, against)
        result |= {"torch": torch.__version__, "device": device_name(device), "threads": torch.get_num_threads()}
        result["peers"] = {name: version for name in ("pfl", "flwr") if (version := installed(name))}
        folder = Path(words.out)
        folder.mkdir(parents=True, exist_ok=True)
        kind = "algorithms" if words.algorithms else "against" if against else "rounds"
        (folder / f"{kind}-{workload}-{device.type}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(table(result, against), flush=True)


if __name__ == "__main__":
    main()
