#!/usr/bin/env python3
"""A federation on one machine: a server and N clients as separate programs that talk over TLS, with one command.

    python3 deploy/up.py --nodes 2 --model 2nn --global_epoch 3      each client gets a share of the data set
    python3 deploy/up.py --node_data a.csv --node_data b.csv ...     each client has a file or folder of its own

All other flags are those of run_federated.py, and so is the run folder. Everything that was started ends with it.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from deploy.limits import check_deployable  # noqa: E402
from deploy.processes import Processes  # noqa: E402
from deploy.screen import followed  # noqa: E402
from fl.command_line import expanded, parse, without  # noqa: E402
from fl.errors import FlagError, WorkerError  # noqa: E402
from fl.flags.flag import file_and_name  # noqa: E402
from fl.guard import guarded, leave  # noqa: E402
from fl.words import Words  # noqa: E402

HOST = "127.0.0.1"
APP = "federation"  # what we call the server in Flower's configuration
# Flower tells its makers of each run and looks for new versions of itself, unless it is told not to.
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
START_SECONDS, POLL_SECONDS = 60.0, 0.2


def words(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our own flags, and those of run_federated.py."""
    parser = Words(
        prog="deploy/up.py", usage="%(prog)s [--nodes N | --node_data PATH ...] [flags of run_federated.py]",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--nodes", type=int, default=2, metavar="N", help="clients, each with a share of the data set")
    parser.add_argument(
        "--node_data", action="append", default=[], metavar="PATH", help="a client with this data; once for each client"
    )
    return parser.parse_known_args(argv)


def federate(own: argparse.Namespace, argv: list[str], door: Callable[[int], int] = lambda port: port) -> int:
    """Check the flags, start everything, submit the run, follow it, and end everything. Returns its exit code.

    door(port): the port that clients connect to, where `port` is the server's; another one if a relay stands between.
    """
    N = len(own.node_data) or own.nodes
    if N < 1:
        raise FlagError(f"--nodes {own.nodes}: expected 1 or more")
    for path in own.node_data:
        if not Path(path).exists():
            raise FlagError(f"--node_data {path}: there is no such file or folder")
    argv = portable(argv)
    given = {word.split("=")[0] for word in argv}
    if "--num_clients" not in given:
        argv = [*argv, "--num_clients", str(N)]
    if not given & {"--num_select_clients", "--client_fraction"}:
        argv = [*argv, "--num_select_clients", str(N)]
    config = parse(argv, "federated", __doc__ or "")
    check_deployable(config)
    if config.num_clients != N:
        raise FlagError(f"--num_clients {config.num_clients}: there are {N} nodes; make them as many")
    stamp = "-".join(filter(None, (time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), "deploy", config.name)))
    run_dir = Path(config.run_dir or Path(config.out_dir) / stamp)
    flags = [*without(["out_dir", "name"], argv), "--run_dir", str(run_dir.absolute())]
    for name in ("data_dir", "text"):
        if path := getattr(config, name):
            flags += [f"--{name}", str(Path(path).absolute())]

    with tempfile.TemporaryDirectory(prefix="federation-") as folder, Processes() as processes:
        home = Path(folder)
        keys = start(home, own.node_data, N, str(Path(config.data_dir).absolute()), processes, door)
        screen = home / "screen"
        screen.touch()
        (home / "keys").write_text("".join(f"{key}\n" for key in keys))
        submit(home, flags, screen, processes)
        try:
            return followed(screen, lambda: processes.look_after("server"))
        except WorkerError as error:
            if (run_dir / "checkpoint.pt").exists():
                raise WorkerError(f"{error}; the same command with --resume --run_dir {run_dir} goes on") from None
            raise


def portable(argv: list[str]) -> list[str]:
    """The flags for a program with another working directory: without presets, and with whole paths in FILE.py:NAME."""
    words = []
    for word in expanded(argv):
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        with suppress(ValueError):
            file, name = file_and_name(value)
            word = f"{flag}{equals}{Path(file).absolute()}:{name}"
        words.append(word)
    return words


def start(
    home: Path, node_data: list[str], N: int, data_dir: str, processes: Processes, door: Callable[[int], int]
) -> list[str]:
    """The server with its certificate, and N clients with their keys. Returns the public keys in the clients' order."""
    from deploy import identity  # here, because it needs a package that may be missing

    identity.server(home / "server", [HOST, "localhost"])
    keys = [identity.node(home / f"node{k}") for k in range(N)]
    link, *ports = free_ports(N + 1)
    environment = {
        **os.environ, **QUIET, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(":"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # N programs share the processor
    }  # fmt: skip
    server = {**environment, "FLWR_HOME": str(home / "server")}
    (home / "server" / "config.toml").write_text(
        f'[superlink]\ndefault = "{APP}"\n[superlink.{APP}]\naddress = "{HOST}:{link}"\n'
        f'root-certificates = "{home}/server/ca.crt"\n'
    )
    processes.start(
        "server",
        ["flower-superlink", "--host", HOST, "--port", str(link), "--ssl-ca-certfile", "ca.crt",
         "--ssl-certfile", "server.crt", "--ssl-keyfile", "server.key", "--enable-supernode-auth",
         "--disable-runtime-dependency-installation"],
        home / "server", server,
    )  # fmt: skip
    reachable(link, processes)
    processes.environment, processes.home = server, home / "server"
    for k in range(N):
        processes.run(["flwr", "supernode", "register", str(home / f"node{k}" / "node.pub"), APP])
    entrance = door(link)
    for k, port in enumerate(ports):
        where = str(Path(node_data[k]).absolute()) if node_data else data_dir
        settings = f'data-dir="{where}"' + ("" if node_data else f" partition={k}")
        processes.start(
            f"client {k}",
            ["flower-supernode", "--superlink", f"{HOST}:{entrance}",
             "--root-certificates", str(home / "server" / "ca.crt"), "--auth-supernode-private-key", "node.key",
             "--node-config", settings, "--port", str(port)],
            home / f"node{k}", {**environment, "FLWR_HOME": str(home / f"node{k}")},
        )  # fmt: skip
    return keys


def submit(home: Path, flags: list[str], screen: Path, processes: Processes) -> None:
    quoted = {"flags": json.dumps(flags), "keys": str(home / "keys"), "screen": str(screen)}
    settings = home / "run.toml"
    settings.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in quoted.items()))
    processes.run(["flwr", "run", str(ROOT / "deploy" / "app"), APP, "--run-config", str(settings)])


def free_ports(n: int) -> list[int]:
    """Ports of this machine that nobody listens on at this moment."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def reachable(port: int, processes: Processes) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            processes.look_after("server")
            time.sleep(POLL_SECONDS)
    raise WorkerError(f"the server does not answer on port {port} after {START_SECONDS:g} s")


def main() -> int:
    ended: list[int] = []
    code = guarded("deploy/up.py", lambda: ended.append(federate(*words(sys.argv[1:]))))
    return code or ended[0]  # of a server that has failed, which has said why


if __name__ == "__main__":
    leave(main())
