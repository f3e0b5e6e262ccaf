"""What a round over the network costs: seconds, memory, and bytes on the wire beside those of the messages.

    python3 -m benchmarks.network

Two clients and the server on this machine. Between them stands a relay that counts the bytes of their connections, TLS
included, and now and then the memory of all programs is looked at. Needs sh requirements.sh deploy.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import socket
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import redirect_stdout, suppress
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from deploy import up
from deploy.processes import processes
from deploy.up import HOST
from fl.rng import seeded

MNIST = "--optimizer sgd --init_lr 0.1 --partition iid --timeout 600"
FEW = f"{shlex.quote(str(Path(__file__).resolve()))}:few"
WORKLOADS = {
    "2NN": f"--model 2nn --local_epoch 1 --batch_size 50 {MNIST}",
    "paper CNN": f"--model cnn --local_epoch 1 --batch_size 50 {MNIST} --proxy_fraction 0.9",
    "100 MB": f"--model mlp --hidden 32000 --local_epoch 1 --batch_size 0 {MNIST} --dataset {FEW}",
}


def few(data_dir: Path) -> dict[str, Tensor]:
    """As many examples as show what the network costs, and not what training a wide layer does."""
    with seeded(0, "few"):
        x, y = torch.rand(120, 1, 28, 28), torch.arange(120) % 10
    return {"x": x[:100], "y": y[:100], "x_test": x[100:], "y_test": y[100:]}


class Relay:
    """Passes connections on from a new port to another one. bytes: how many went up to the server, and down from it.

    seconds: how long each piece of at most 64 KiB is held back, as a slow network would.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.bytes = {"up": 0, "down": 0}
        self.lock = threading.Lock()

    def __call__(self, port: int) -> int:
        listener = socket.create_server((HOST, 0))
        threading.Thread(target=self.accept, args=(listener, port), daemon=True).start()
        return int(listener.getsockname()[1])

    def accept(self, listener: socket.socket, port: int) -> None:
        while True:
            client, _ = listener.accept()
            with suppress(OSError):
                server = socket.create_connection((HOST, port))
                for source, sink, way in ((client, server, "up"), (server, client, "down")):
                    threading.Thread(target=self.pump, args=(source, sink, way), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                with self.lock:
                    self.bytes[way] += len(data)
                time.sleep(self.seconds)
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def memory_of(place: Path) -> dict[str, float]:
    """MB that the programs of the server and of client 0 hold together."""
    held: dict[str, float] = defaultdict(float)
    for pid, _, _ in processes():
        with suppress(OSError):
            folder = Path(f"/proc/{pid}/cwd").resolve()
            if folder.is_relative_to(place) and folder.name in ("server", "node0"):
                held[folder.name] += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6
    return held


def measure(flags: str, rounds: int) -> dict[str, float]:
    """Medians over the rounds but the first, which brings Flower's application to the nodes; the most memory."""
    relay, most = Relay(), defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        metrics = Path(folder) / "run" / "metrics.jsonl"
        spent: list[dict[str, int]] = []

        def look() -> None:
            while True:
                lines = metrics.read_text().count("\n") if metrics.exists() else 0
                while len(spent) < lines:
                    spent.append(dict(relay.bytes))
                for name, held in memory_of(Path(folder)).items():
                    most[name] = max(most[name], held)
                time.sleep(0.2)

        threading.Thread(target=look, daemon=True).start()
        argv = [*shlex.split(flags), "--global_epoch", str(rounds), "--run_dir", f"{folder}/run"]
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            up.federate(argparse.Namespace(nodes=2, node_data=[]), argv, relay)
        time.sleep(0.5)
        records = [json.loads(line) for line in metrics.read_text().splitlines()]
        tempfile.tempdir = None
    later = range(2, rounds + 1)
    return {
        "seconds": median(records[t]["round_seconds"] for t in later),
        "MB up": median(records[t]["uplink_bytes"] for t in later) / 1e6,
        "MB down": median(records[t]["downlink_bytes"] for t in later) / 1e6,
        "wire MB up": median(spent[t]["up"] - spent[t - 1]["up"] for t in later) / 1e6,
        "wire MB down": median(spent[t]["down"] - spent[t - 1]["down"] for t in later) / 1e6,
        "server MB": most["server"],
        "client MB": most["node0"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=WORKLOADS)
    parser.add_argument("--rounds", type=int, default=4)
    words = parser.parse_args()
    for name in [words.only] if words.only else WORKLOADS:
        found = measure(WORKLOADS[name], words.rounds)
        print(f"{name:10s} " + "  ".join(f"{key} {value:.4g}" for key, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
