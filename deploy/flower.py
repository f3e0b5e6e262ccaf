"""The one file that knows Flower's interface, because that changes often (written for 1.41 and 1.42).

Messages carry one array of bytes (deploy/wire.py). Flower keeps the connections, proves who is who, and starts a
process for each message; nothing of its strategies, records of tensors or serialisation of NumPy is used.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from deploy.wire import pack, unpack
from fl.engines.networked import Asked

FIELD, PART = "content", "bytes"  # under which a message holds its bytes
POLL_SECONDS = 0.2
LATER_SECONDS = 10.0  # that Flower keeps a message after we have given up, so that its error does not come first
GRACE_SECONDS = 60.0  # that a node may be away in a round before it counts as gone
NOT_THERE, SILENT, GONE, FOREIGN = "not connected", "no answer in time", "gone in mid-round", "another node's answer"


def record(content: Any) -> tuple[RecordDict, int]:
    """The content as Flower carries it, and its length in bytes."""
    data = pack(content)
    array = Array(dtype="uint8", shape=(len(data),), stype="raw", data=data)
    return RecordDict({FIELD: ArrayRecord({PART: array})}), len(data)


def raw(message: Message) -> bytes:
    """Raises ValueError if there is anything else in the message."""
    content = message.content
    arrays = content[FIELD] if set(content) == {FIELD} else None
    if not isinstance(arrays, ArrayRecord) or set(arrays) != {PART}:
        raise ValueError("no message of ours")
    return bytes(arrays[PART].data)


def identity(public_key: str | bytes) -> bytes:
    """A public key without its spelling: OpenSSH and PEM of the same key are equal."""
    text = public_key.encode() if isinstance(public_key, str) else public_key
    key = load_ssh_public_key(text) if text.startswith(b"ecdsa-") else load_pem_public_key(text)
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class FlowerChannel:
    """Client k is the node with the k-th of `keys`, in whatever order the nodes connect.

    seconds: the longest wait for nodes to connect, or for the answers to a question. most_bytes: the longest answer
    that is read.
    """

    def __init__(self, grid: Grid, keys: Sequence[str], seconds: float):
        self.grid, self.seconds = grid, seconds
        self.client_of = {identity(key): k for k, key in enumerate(keys)}
        self.most_bytes = 1 << 30
        self.asked = 0

    def connected(self) -> dict[int, int]:
        """The nodes that are there, by client."""
        there = {self.client_of.get(identity(node.public_key)): node.node_id for node in self.grid.get_nodes()}
        return {k: node for k, node in there.items() if k is not None}

    def wait_for(self, clients: int) -> dict[int, int]:
        """The connected nodes by client, as soon as there are `clients` of them or time is up."""
        deadline = time.monotonic() + self.seconds
        while len(there := self.connected()) < clients and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return there

    def ask(self, what: str, contents: Mapping[int, Any]) -> Asked:
        there = self.connected()
        answers: dict[int, Any] = {}
        lost = {k: NOT_THERE for k in contents if k not in there}
        down = up = 0
        self.asked += 1
        messages, clients = [], [k for k in contents if k in there]
        for k in clients:
            content, length = record(contents[k])
            down += length
            messages.append(
                Message(content, dst_node_id=there[k], message_type=f"query.{what}", ttl=self.seconds + LATER_SECONDS,
                        group_id=str(self.asked))
            )  # fmt: skip
        waiting = dict(zip(self.grid.push_messages(messages), clients, strict=True))
        deadline = time.monotonic() + self.seconds
        away: dict[int, float] = {}
        while waiting and time.monotonic() < deadline:
            for reply in self.grid.pull_messages(list(waiting)):
                if reply.metadata.reply_to_message_id not in waiting:
                    continue  # an answer that came already, or to another question
                k = waiting.pop(reply.metadata.reply_to_message_id)
                if reply.has_error():  # the node's own, or Flower's for a node that has gone
                    lost[k] = f"failed: {' '.join((reply.error.reason or 'no reason given').split())[:200]}"
                    continue
                if reply.metadata.src_node_id != there[k]:
                    lost[k] = FOREIGN
                    continue
                try:
                    data = raw(reply)
                    if len(data) > self.most_bytes:
                        raise ValueError(f"answer of {len(data):,} bytes, over {self.most_bytes:,}")
                    answers[k] = unpack(data)
                    up += len(data)
                except ValueError as error:
                    lost[k] = str(error)
            if waiting:
                time.sleep(POLL_SECONDS)
                away = self.away_since(away, waiting)
                for message, k in list(waiting.items()):
                    if time.monotonic() - away.get(k, deadline) > GRACE_SECONDS:
                        lost[waiting.pop(message)] = GONE
        return Asked(answers, lost | {k: SILENT for k in waiting.values()}, down, up)

    def away_since(self, away: dict[int, float], waiting: Mapping[str, int]) -> dict[int, float]:
        """Since when the clients that are awaited are not connected."""
        there = self.connected()
        return {k: away.get(k, time.monotonic()) for k in waiting.values() if k not in there}


def server_app() -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        from deploy.server import serve

        serve(grid, {key: str(value) for key, value in context.run_config.items()})

    return app


def client_app() -> ClientApp:
    app = ClientApp()

    def answered(what: str) -> None:
        @app.query(what)
        def handle(message: Message, context: Context) -> Message:
            from deploy.node import answer

            content, _ = record(answer(what, unpack(raw(message)), context.node_config))
            return Message(content, reply_to=message)

    for what in ("learn", "facts", "train", "gradient", "evaluate"):
        answered(what)
    return app
