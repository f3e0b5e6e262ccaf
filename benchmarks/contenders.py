"""One contender of benchmarks/rounds.py in a process of its own. Each line on stdin is a number of rounds to train.

    python3 -m benchmarks.contenders NAME WORKLOAD

NAME is one of CONTENDERS or ALGORITHMS, or "workers N" for our distributed engine with N processes.

Every contender trains the same model on the same partition with the same flags, and answers each line with the
seconds of each round, evaluation excluded. Peers are given their data as normalised float tensors in memory, and their
convolutions have the channels innermost, as ours have, because that is faster on CPUs.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

# A folder of CIFAR-10's images, train/<class>/* and test/<class>/*; without one, pixels of the same shape are made up.
CIFAR = os.environ.get("BENCHMARK_CIFAR", "")
IMAGES = {"dataset": "folder", "data_dir": CIFAR} if CIFAR else {"dataset": "benchmarks/made_up.py:cifar"}
# The text of --dataset shakespeare; without one, it is looked for in data/ and fetched.
TEXT = {"dataset": "shakespeare"} | ({"text": os.environ["BENCHMARK_TEXT"]} if "BENCHMARK_TEXT" in os.environ else {})

WORKLOADS: dict[str, dict[str, Any]] = {
    "cnn": {"model": "cnn", "num_clients": 100, "num_select_clients": 10},
    "2nn": {"model": "2nn", "num_clients": 100, "num_select_clients": 10},
    "logistic": {"model": "logistic", "num_clients": 1000, "num_select_clients": 10},
    "default": {"model": "fast_cnn", "batch_size": 100, "local_epoch": 5, "optimizer": "adam", "init_lr": 5e-5},
    "gn_cnn": {"model": "gn_cnn", "batch_size": 100, "local_epoch": 5, "optimizer": "adam", "init_lr": 5e-5},
    # On whole images of 32x32 pixels.
    "lenet": IMAGES | {"model": "lenet", "num_clients": 100, "num_select_clients": 10, "batch_size": 50},
    "cifar_cnn": IMAGES | {"model": "cifar_cnn", "num_clients": 100, "num_select_clients": 10, "batch_size": 50},
    "char_lstm": TEXT | {"model": "char_lstm", "num_clients": 100, "num_select_clients": 10, "init_lr": 1.0},
}
JOBS: dict[str, dict[str, Any]] = {  # of benchmarks/rivals.py
    "blazefl": IMAGES
    | {
        "model": "lenet",
        "num_clients": 100,
        "num_select_clients": 100,
        "batch_size": 50,
        "local_epoch": 5,
        "init_lr": 0.1,
    },
    "flute": {"model": "logistic", "num_clients": 1000, "num_select_clients": 10, "batch_size": 10, "init_lr": 0.03},
}
WORKLOADS |= JOBS
COMMON = {"local_epoch": 1, "batch_size": 10, "optimizer": "sgd", "init_lr": 0.05, "global_epoch": 10**6,
          "eval_every": 10**9, "device": os.environ.get("BENCHMARK_DEVICE", "cpu")}  # fmt: skip
ON_GPU = COMMON["device"].startswith("cuda")
PROCESSES = int(os.environ.get("BENCHMARK_GPUS", "1")) if ON_GPU else 2  # each needs a GPU of its own


def config_of(workload: str, **flags: Any) -> Any:
    from fl.check import resolve

    return resolve(COMMON | WORKLOADS[workload] | flags)


@cache
def setting(workload: str) -> tuple[Any, Any, Any, list[Any], list[Any]]:
    """Config, experiment and partition, and each client's normalised images and labels."""
    from fl.experiment import federated

    c = config_of(workload)
    task = federated(c)
    batches = [task.data.batch(task.data.train, mine.to(task.device)) for mine in task.partition]
    return c, task, task.partition, [x for x, _ in batches], [y for _, y in batches]


def ours(engine: str, workers: int, **flags: Any) -> Callable[[str], Iterator[float]]:
    """The real loop, with one of our engines. It yields the seconds of each round, its record included."""

    def rounds(workload: str) -> Iterator[float]:
        from fl.engines import assist, choose, make_engine
        from fl.experiment import federated
        from fl.processes.workers import group_of
        from fl.recorded import federated_rounds

        c = config_of(workload, engine=engine, **({"workers": workers} if workers else {}), **flags)
        x = federated(c)
        name, _ = choose(x)
        with group_of(c, workers or 1, assist) as group:
            began = time.perf_counter()
            for done in federated_rounds(x, make_engine(name, x), group):
                if done.t:
                    yield time.perf_counter() - began
                began = time.perf_counter()

    return rounds


def bare(threads: int) -> Callable[[str], Iterator[float]]:
    """The loop that anyone would write: eager PyTorch, one client after another, a weighted mean at the end."""

    def rounds(workload: str) -> Iterator[float]:
        import torch
        import torch.nn.functional as F

        c, task, _, images, labels = setting(workload)
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        model = task.model
        parameters = list(model.parameters())
        w = [p.detach().clone() for p in parameters]
        while True:
            began = time.perf_counter()
            chosen = torch.randperm(c.num_clients)[: c.num_select_clients].tolist()
            total = [torch.zeros_like(p) for p in w]
            n = sum(len(labels[k]) for k in chosen)
            for k in chosen:
                with torch.no_grad():
                    for p, value in zip(parameters, w, strict=True):
                        p.copy_(value)
                optimizer = optimizer_of(c, parameters)
                for _ in range(c.local_epoch):
                    for b in torch.randperm(len(labels[k]), device=task.device).split(c.batch_size):
                        loss = F.cross_entropy(model(images[k][b]), labels[k][b])
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()
                with torch.no_grad():
                    for sum_, p in zip(total, parameters, strict=True):
                        sum_.add_(p, alpha=len(labels[k]) / n)
            w = total
            w[0].sum().item()  # waits for the device
            yield time.perf_counter() - began

    return rounds


def optimizer_of(c: Any, parameters: Any) -> Any:
    import torch

    return (torch.optim.SGD if c.optimizer == "sgd" else torch.optim.Adam)(parameters, lr=c.init_lr)


def central(threads: int) -> Callable[[str], Iterator[float]]:
    """Centralised training on as many examples as a round processes: what the averaging costs on top."""

    def rounds(workload: str) -> Iterator[float]:
        import torch
        import torch.nn.functional as F

        c, task, _, images, labels = setting(workload)
        torch.set_num_threads(threads)
        x, y = torch.cat(images), torch.cat(labels)
        model = task.model
        optimizer = optimizer_of(c, model.parameters())
        examples = len(y) * c.num_select_clients * c.local_epoch // c.num_clients
        while True:
            began = time.perf_counter()
            order = torch.cat([torch.randperm(len(y), device=task.device) for _ in range(-(-examples // len(y)))])
            for b in order[:examples].split(c.batch_size):
                loss = F.cross_entropy(model(x[b]), y[b])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            loss.item()
            yield time.perf_counter() - began

    return rounds


def pfl(threads: int) -> Callable[[str], Iterator[float]]:
    """Apple's pfl-research: its FederatedAveraging on its SimulatedBackend."""

    def rounds(workload: str) -> Iterator[float]:
        import torch
        import torch.nn.functional as F
        from pfl.aggregate.simulate import SimulatedBackend
        from pfl.algorithm.base import NNAlgorithmParams
        from pfl.algorithm.federated_averaging import FederatedAveraging
        from pfl.callback.base import TrainingProcessCallback
        from pfl.data.dataset import Dataset
        from pfl.data.federated_dataset import FederatedDataset
        from pfl.data.sampling import get_user_sampler
        from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
        from pfl.model.pytorch import PyTorchModel

        c, task, _, images, labels = setting(workload)
        torch.set_num_threads(threads)
        module = task.model

        class WithLoss(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = module

            def forward(self, x: Any) -> Any:
                return self.net(x)

            def loss(self, x: Any, y: Any, is_eval: bool = False) -> Any:
                self.train(not is_eval)
                return F.cross_entropy(self(x), y)

            def metrics(self, x: Any, y: Any) -> dict[str, Any]:
                return {}

        wrapped = WithLoss()
        model = PyTorchModel(
            wrapped, local_optimizer_create=lambda parameters, lr: optimizer_of(c, parameters),
            central_optimizer=torch.optim.SGD(wrapped.parameters(), lr=1.0),
        )  # fmt: skip
        sampler = get_user_sampler("minimize_reuse", list(range(c.num_clients)))
        data = FederatedDataset(lambda k: Dataset(raw_data=[images[k], labels[k]]), sampler)
        parameters = NNAlgorithmParams(
            central_num_iterations=10**6, evaluation_frequency=10**9,
            train_cohort_size=c.num_select_clients, val_cohort_size=0,
        )  # fmt: skip
        train = NNTrainHyperParams(
            local_num_epochs=c.local_epoch, local_learning_rate=c.init_lr, local_batch_size=c.batch_size
        )
        lockstep = Lockstep()

        class EachRound(TrainingProcessCallback):
            def after_central_iteration(self, *_: Any, **__: Any) -> Any:
                lockstep.done()
                lockstep.wait()
                return False, _metrics()

        def _metrics() -> Any:
            from pfl.metrics import Metrics

            return Metrics()

        def work() -> None:
            lockstep.wait()
            FederatedAveraging().run(
                parameters, SimulatedBackend(data, data), model, train, NNEvalHyperParams(local_batch_size=1000),
                callbacks=[EachRound()], send_metrics_to_platform=False,
            )  # fmt: skip

        yield from lockstep.drive(work)

    return rounds


def flower(actors: int) -> Callable[[str], Iterator[float]]:
    """Flower's simulation: FedAvg over Ray actors of one core each."""

    def rounds(workload: str) -> Iterator[float]:
        os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1")
        os.environ.setdefault("PYTHONPATH", os.getcwd())
        import flwr
        import torch
        from flwr.client import NumPyClient
        from flwr.common import Context, ndarrays_to_parameters
        from flwr.server.strategy import FedAvg
        from flwr.simulation import start_simulation

        c, task, *_ = setting(workload)
        lockstep = Lockstep()

        class Client(NumPyClient):
            def __init__(self, k: int):
                self.k = k

            def fit(self, parameters: Any, config: Any) -> Any:
                import torch.nn.functional as F

                from benchmarks.contenders import optimizer_of, setting  # __main__ is another module there

                torch.set_num_threads(1)
                c, task, _, images, labels = setting(workload)  # once an actor
                model = task.model
                with torch.no_grad():
                    for p, value in zip(model.parameters(), parameters, strict=True):
                        p.copy_(torch.from_numpy(value.copy()))
                optimizer = optimizer_of(c, model.parameters())
                x, y = images[self.k], labels[self.k]
                for _ in range(c.local_epoch):
                    for b in torch.randperm(len(y)).split(c.batch_size):
                        loss = F.cross_entropy(model(x[b]), y[b])
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()
                return [p.detach().numpy() for p in model.parameters()], len(y), {}

        def client_fn(context: Context) -> Any:
            return Client(int(context.node_config["partition-id"])).to_client()

        class Timed(FedAvg):
            def configure_fit(self, *args: Any, **kwargs: Any) -> Any:
                lockstep.wait()
                return super().configure_fit(*args, **kwargs)

            def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
                trained = sum(reply.num_examples for _, reply in results)
                n, K, m = len(task.data.train), c.num_clients, c.num_select_clients
                if failures or abs(trained * K - n * m) > (n % K > 0) * K * m:  # clients may differ by one example
                    raise RuntimeError(f"{len(failures)} clients failed, {trained} examples trained on: {failures[:1]}")
                result = super().aggregate_fit(server_round, results, failures)
                lockstep.done()
                return result

        strategy = Timed(
            fraction_fit=c.num_select_clients / c.num_clients, fraction_evaluate=0.0,
            min_fit_clients=c.num_select_clients, min_available_clients=c.num_clients,
            initial_parameters=ndarrays_to_parameters([p.detach().numpy() for p in task.model.parameters()]),
        )  # fmt: skip

        def work() -> None:
            start_simulation(
                client_fn=client_fn, num_clients=c.num_clients, strategy=strategy,
                config=flwr.server.ServerConfig(num_rounds=10**6), client_resources={"num_cpus": 1, "num_gpus": 0},
                ray_init_args={"num_cpus": actors, "include_dashboard": False, "log_to_driver": False},
            )  # fmt: skip

        yield from lockstep.drive(work)

    return rounds


class Lockstep:
    """Lets a framework that insists on running its own loop do one round at a time."""

    def __init__(self) -> None:
        self.go, self.finished = threading.Semaphore(0), threading.Semaphore(0)
        self.seconds = 0.0
        self.error: BaseException | None = None

    def wait(self) -> None:
        self.go.acquire()
        self.began = time.perf_counter()

    def done(self) -> None:
        self.seconds = time.perf_counter() - self.began
        self.finished.release()

    def drive(self, work: Callable[[], None]) -> Iterator[float]:
        def guarded() -> None:
            try:
                asyncio.set_event_loop(asyncio.new_event_loop())  # pfl asks its thread for one
                work()
            except BaseException as error:
                self.error = error
                self.finished.release()

        threading.Thread(target=guarded, daemon=True).start()
        while True:
            self.go.release()
            self.finished.acquire()
            if self.error:
                raise self.error
            yield self.seconds


CONTENDERS: dict[str, Callable[[str], Iterator[float]]] = {
    "sequential": ours("sequential", 0),
    "stacked": ours("stacked", 0),
    "distributed": ours("distributed", PROCESSES),
    "distributed, bf16": ours("distributed", PROCESSES, precision="bf16"),
    "bare, 1 thread": bare(1),
    "bare, 2 threads": bare(2),
    "central, 1 thread": central(1),
    "central, 2 threads": central(2),
    "pfl, 1 thread": pfl(1),
    "pfl, 2 threads": pfl(2),
    "flower, 2 actors": flower(2),
}
if ON_GPU:
    CONTENDERS |= {f"stacked, {name}": ours("stacked", 0, precision=name) for name in ("tf32", "bf16")}

FLAGS_OF = {"fedavg": {}, "fedprox": {"proximal_mu": 0.01}, "scaffold": {}, "fednova": {}, "fedadam": {}, "fsvrg": {}}
ALGORITHMS = {name: ours("stacked", 0, algorithm=name, **flags) for name, flags in FLAGS_OF.items()}


def main() -> None:
    name, workload = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")  # what frameworks print goes elsewhere
    os.dup2(2, 1)
    kind, _, count = name.partition(" ")
    rounds = (ours("distributed", int(count)) if kind == "workers" else (CONTENDERS | ALGORITHMS)[name])(workload)
    try:
        for line in sys.stdin:
            print(json.dumps([next(rounds) for _ in range(int(line))]), file=answers, flush=True)
    except (ImportError, NotImplementedError) as error:
        print(json.dumps(f"not installed: {error}"), file=answers, flush=True)
    rounds.close()  # type: ignore[attr-defined]
    answers.flush()
    os._exit(0)  # frameworks that wait for a next round wait for ever


if __name__ == "__main__":
    main()
