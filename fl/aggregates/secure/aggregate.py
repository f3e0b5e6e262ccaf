"""The weighted mean, computed by clients and a server without showing each other any single update.

A simulation differs from a deployment in this: all clients live in the processes of the run, and derive their secrets
from one key (RoundStart.mask_key). So each process can carry out the key exchange of all clients by itself, and the
masks of clients that train in different processes cancel. In a deployment each device draws its own secrets. The sum is
exact whatever the masks are, so the model has the same bits with any key, any number of processes, and after a resume.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from fl.aggregates.secure.client import Client
from fl.aggregates.secure.fixed_point import decoded, encoded, scale_of
from fl.aggregates.secure.keys import stream_of
from fl.aggregates.secure.server import Server
from fl.flags.security import threshold
from fl.group import Group
from fl.state import RoundStart, State, Update


class Secure:
    """A round of the protocol, for models that are all parameters: fl/aggregates/secure/allowed.py refuses others.

    Every client that was called and did not decline shares keys. A client that does not report has dropped out after
    that. So has a client that does not send its update because its own check rejects it (`examine` in
    fl/aggregates/total.py).
    """

    def __init__(self, now: RoundStart):
        self.now, self.w, self.seconds = now, now.w, 0.0
        self.scale = scale_of(now.n)
        sharing = sorted(set(now.cohort.called) - set(now.cohort.declined))
        t = threshold(now.config, len(sharing))
        with self.timed():
            self.clients = {k: Client(k, t, stream_of(now.mask_key, now.t, k)) for k in sharing}
            self.server = Server(t, sum(tensor.numel() for tensor in self.w.values()) + 1)
            keys = self.server.advertised({k: client.advertise() for k, client in self.clients.items()})
            mail = self.server.shared({k: client.share_keys(keys[k]) for k, client in self.clients.items()})
            for k, client in self.clients.items():
                client.receive(mail[k])

    def add(self, update: Update, weights: Sequence[float]) -> None:
        """Each client encodes weight (w_k - w) as integers, masks them and sends them. weights: integers below 2^53."""
        with self.timed():
            for i, (report, weight) in enumerate(zip(update.reports, weights, strict=True)):
                delta = flat({name: tensor[i] for name, tensor in update.w.items()}, self.w)
                words = encoded(delta.numpy(), int(weight), self.scale)
                self.server.collect(report.client, self.clients[report.client].masked(words))

    def gather(self, group: Group, more: Tensor) -> Tensor:
        """Add up what the server has got in each process, and `more` of each, float64 of equal shapes; returns the
        sum of the latter."""
        total = group.sum(torch.from_numpy(self.server.total.view("int64")).to(group.device))
        sent = torch.tensor([float(k in self.server.survivors) for k in self.clients], dtype=torch.float64)
        both = group.sum(torch.cat([sent, more.to(sent).flatten()]).to(group.device)).cpu()
        survivors = {k for k, has_come in zip(self.clients, both.tolist(), strict=False) if has_come}
        self.server.up += self.server.total.nbytes * len(survivors - self.server.survivors)
        self.server.total, self.server.survivors = total.cpu().numpy().view("uint64"), survivors
        return both[len(sent) :].view_as(more)

    def result(self, denominator: float) -> State:
        """w plus the mean of the updates. `denominator` is not needed: the sum itself has the sum of the weights."""
        with self.timed():
            asked = self.server.who_answers()
            answers = {k: self.clients[k].answer(message) for k, message in asked.items()}
            delta, weight = decoded(self.server.unmasked(answers), self.scale)
            parts = torch.from_numpy(delta).div_(weight).split([tensor.numel() for tensor in self.w.values()])
            return {
                name: (tensor.cpu().double() + part.view(tensor.shape)).to(tensor)
                for (name, tensor), part in zip(self.w.items(), parts, strict=True)
            }

    @property
    def costs(self) -> dict[str, float]:
        """For the round's record: bytes, and this process's seconds in the protocol.

        secure_bytes are those of keys, sealed letters and answers; masked updates are the rest of uplink_bytes.
        """
        vectors = len(self.server.survivors) * self.server.total.nbytes
        model = sum(tensor.nbytes for tensor in self.w.values())
        return {
            "downlink_bytes": len(self.clients) * model + self.server.down,
            "uplink_bytes": self.server.up,
            "secure_bytes": self.server.down + self.server.up - vectors,
            "secure_seconds": self.seconds,
        }

    @contextmanager
    def timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began


def flat(w_k: State, w: State) -> Tensor:
    """(P,) float64 on the CPU: w_k - w, the tensors one after another."""
    return torch.cat([(w_k[name].cpu().double() - tensor.cpu().double()).flatten() for name, tensor in w.items()])
