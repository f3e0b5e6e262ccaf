"""Who is not a client of the federation gets no further than the door: TLS, registered keys, and the reverse proxy."""

from __future__ import annotations

import http.client
import os
import random
import shutil
import socket
import ssl
import subprocess
import threading
import time
from base64 import b64encode
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="the network needs Flower: sh requirements.sh deploy")
if shutil.which("nginx") is None:
    pytest.skip("the reverse proxy needs nginx, which is not installed", allow_module_level=True)

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest, ActivateNodeResponse, RegisterNodeFleetRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER

from deploy import identity
from deploy.processes import Processes
from deploy.up import HOST, QUIET, free_ports, reachable

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
REFUSED, UNKNOWN, HIDDEN, TOO_LARGE, WELCOME = 401, 412, 404, 413, 200


class Door:
    """A server behind its proxy. port: the proxy's; inner: that of the server itself."""

    def __init__(self, folder: Path, port: int, inner: int):
        self.folder, self.port, self.inner = folder, port, inner

    def trusting(self, authority: Path | None = None) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(authority or self.folder / "ca.crt"))

    def post(self, path: str, body: bytes = b"", headers: dict[str, str] | None = None, method: str = "POST") -> int:
        connection = http.client.HTTPSConnection("localhost", self.port, context=self.trusting(), timeout=30)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in {"content-type": "application/protobuf", **(headers or {})}.items():
                connection.putheader(name, value)
            connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            self.answer = response.read()
            return response.status
        finally:
            connection.close()


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    folder = tmp_path_factory.mktemp("door")
    port, inner = free_ports(2)
    identity.server(folder, ["localhost", HOST])
    for name in ("node0", "stranger"):
        identity.node(folder / name)
    settings = (ROOT / "deploy" / "nginx.conf").read_text()
    for said, here in (("listen 443", f"listen {HOST}:{port}"), ("127.0.0.1:9092", f"{HOST}:{inner}")):
        assert said in settings
        settings = settings.replace(said, here)
    (folder / "nginx.conf").write_text(settings)
    environment = {**os.environ, **QUIET, "FLWR_HOME": str(folder)}
    (folder / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{HOST}:{inner}"\n'
        f'root-certificates = "{folder}/ca.crt"\n'
    )
    with Processes() as processes:
        processes.start(
            "server",
            ["flower-superlink", "--host", HOST, "--port", str(inner), "--ssl-ca-certfile", "ca.crt", "--ssl-certfile",
             "server.crt", "--ssl-keyfile", "server.key", "--enable-supernode-auth",
             "--disable-runtime-dependency-installation"],
            folder, environment,
        )  # fmt: skip
        reachable(inner, processes)
        processes.environment, processes.home = environment, folder
        processes.run(["flwr", "supernode", "register", "node0/node.pub", "here"])
        (folder / "proxy").mkdir()
        command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
        processes.start("proxy", command, folder / "proxy", dict(os.environ))
        reachable(port, processes)
        made = Door(folder, port, inner)
        assert activate(made, "node0") == WELCOME
        made.node = ActivateNodeResponse.FromString(made.answer).node_id
        yield made


def signed(key: Path, age: float = 0.0) -> tuple[bytes, dict[str, str]]:
    """A node's public key, and the headers by which it proves itself, signed so many seconds ago."""
    private = load_ssh_private_key(key.read_bytes(), None)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    stamp = (datetime.now(timezone.utc) - timedelta(seconds=age)).isoformat()
    signature = private.sign(stamp.encode(), ec.ECDSA(hashes.SHA256()))
    return public, {
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public).decode(),
        TIMESTAMP_HEADER: stamp,
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(signature).decode(),
    }


def activate(door: Door, who: str, age: float = 0.0) -> int:
    public, headers = signed(door.folder / who / "node.key", age)
    request = ActivateNodeRequest(public_key=public, heartbeat_interval=30)
    return door.post("/v1/fleet/activate-node", request.SerializeToString(), headers)


def beats(door: Door, headers: dict[str, str]) -> int:
    """A sign of life in the name of node0."""
    request = SendNodeHeartbeatRequest(node=Node(node_id=door.node), heartbeat_interval=30)
    return door.post("/v1/fleet/send-node-heartbeat", request.SerializeToString(), headers)


def is_alive(door: Door) -> bool:
    """Whether node0 is still served."""
    return beats(door, signed(door.folder / "node0" / "node.key")[1]) == WELCOME


def test_a_registered_key_is_let_in(door):
    assert is_alive(door)


def test_a_key_that_nobody_registered_is_not(door):
    assert activate(door, "stranger") == UNKNOWN
    public, headers = signed(door.folder / "stranger" / "node.key")
    request = RegisterNodeFleetRequest(public_key=public)
    assert door.post("/v1/fleet/register-node", request.SerializeToString(), headers) == UNKNOWN
    assert activate(door, "stranger") == UNKNOWN
    assert beats(door, headers) == REFUSED


def test_no_key_at_all(door):
    public, _ = signed(door.folder / "node0" / "node.key")
    body = ActivateNodeRequest(public_key=public, heartbeat_interval=30).SerializeToString()
    assert door.post("/v1/fleet/activate-node", body) == REFUSED


def test_another_node_s_name_under_one_s_own_key(door):
    _, headers = signed(door.folder / "stranger" / "node.key")
    assert beats(door, headers) == REFUSED


def test_a_proof_that_is_six_minutes_old_is_worth_nothing(door):
    assert beats(door, signed(door.folder / "node0" / "node.key", age=360)[1]) == REFUSED


def test_a_request_that_is_sent_again_is_served_again(door):
    """Flower signs the time of a request and not its content. Only TLS keeps others from seeing what to send again."""
    _, headers = signed(door.folder / "node0" / "node.key", age=60)
    assert [beats(door, headers) for _ in range(2)] == [WELCOME, WELCOME]


def test_plain_http(door):
    connection = http.client.HTTPConnection("localhost", door.port, timeout=10)
    connection.request("POST", "/v1/fleet/activate-node", b"")
    assert connection.getresponse().status == 400  # nginx: a plain request on a port for TLS
    connection.close()


def test_a_client_does_not_talk_to_a_server_of_another_authority(door, tmp_path):
    identity.server(tmp_path, ["localhost"])
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate"):
        handshake(door.port, door.trusting(tmp_path / "ca.crt"))


def test_a_client_does_not_talk_to_a_server_of_another_name(door, tmp_path):
    identity.server(tmp_path, ["elsewhere.example"])
    with served(tmp_path) as port, pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname mismatch"):
        handshake(port, door.trusting(tmp_path / "ca.crt"))


def test_a_client_does_not_talk_to_a_server_whose_certificate_has_expired(door, tmp_path):
    identity.server(tmp_path, ["localhost"], days=-1 / 1440)
    with served(tmp_path) as port, pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(port, door.trusting(tmp_path / "ca.crt"))


class served:
    """A TLS server with the certificate in the folder, for one handshake."""

    def __init__(self, folder: Path):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "server.crt", folder / "server.key")

    def __enter__(self) -> int:
        self.socket = socket.create_server(("localhost", 0))

        def answer() -> None:
            with suppress(OSError):
                connection, _ = self.socket.accept()
                with suppress(OSError), self.context.wrap_socket(connection, server_side=True):
                    pass
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        return self.socket.getsockname()[1]

    def __exit__(self, *exception: object) -> None:
        self.socket.close()


def handshake(port: int, context: ssl.SSLContext) -> None:
    with (
        socket.create_connection(("localhost", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost"),
    ):
        pass


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-runs", "/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/pull-task",
        "/v1/fleet/../control/list-runs", "/v1/fleet/%2e%2e/control/list-runs", "/v1/fleet/..%2fcontrol/list-runs",
        "//v1/control/list-runs", "/V1/control/list-runs", "/docs", "/openapi.json", "/", "/health",
    ],
)  # fmt: skip
def test_the_proxy_hides_all_but_what_clients_ask(door, path):
    _, headers = signed(door.folder / "node0" / "node.key")
    assert door.post(path, b"", headers) == HIDDEN


def test_the_way_round_by_two_codings_leads_nowhere(door):
    _, headers = signed(door.folder / "node0" / "node.key")
    assert door.post("/v1/fleet/..%252fcontrol/list-runs", b"", headers) in (HIDDEN, REFUSED, 405, 422, 400)


def test_only_post(door):
    for method in ("PUT", "DELETE", "OPTIONS"):
        assert door.post("/v1/fleet/activate-node", method=method) in (403, 405)


def test_forty_megabytes_are_refused_before_they_are_read(door):
    began = time.monotonic()
    try:
        status = door.post("/v1/fleet/push-object", b"\0" * (40 << 20))
    except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
        status = TOO_LARGE  # the proxy has closed the connection while we were still sending
    assert status == TOO_LARGE
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("body", [b"\xff" * 1000, b"{}", random.Random(0).randbytes(5000), b""], ids=range(4))
def test_malformed_requests(door, body):
    _, headers = signed(door.folder / "node0" / "node.key")
    for path in ("/v1/fleet/activate-node", "/v1/fleet/push-messages", "/v1/fleet/push-object"):
        assert door.post(path, body, headers) in (400, 401, 422, 500)
    assert is_alive(door)


def test_the_server_itself_listens_on_loopback_alone(door):
    if not shutil.which("ss"):
        pytest.skip("ss is not here to list the ports")
    listening = subprocess.run(["ss", "-ltn"], capture_output=True, text=True, check=True)
    lines = [line.split()[3] for line in listening.stdout.splitlines() if line.split()[3].endswith(f":{door.inner}")]
    assert lines == [f"127.0.0.1:{door.inner}"]
