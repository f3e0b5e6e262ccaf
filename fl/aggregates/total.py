"""A round's updates on their way into one model: screened, added up, gathered from all ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fl.aggregates.models import Models
from fl.flags.security import fewest_reports
from fl.group import Group
from fl.state import Got, Report, RoundStart, State, Update, floating

NOT_FINITE, WRONG_SHAPE, ABSURD_WEIGHT, STILL_MASKED = REASONS = (
    "not finite", "wrong shape", "absurd weight", "too few others",
)  # fmt: skip


class Aggregate(Protocol):
    """What --aggregate does: it takes models and their weights as they come, and makes one model of them.

    add: S models, each tensor (S, ...), and their S weights. gather: sum up over the ranks; returns the sum of the
    ranks' `more`. result: the model; `denominator` is the sum of all weights. If the aggregate has an attribute `costs`
    (a dict), it is read after `result`, and its keys go into the round's record.
    """

    def add(self, update: Update, weights: Sequence[float]) -> None: ...
    def gather(self, group: Group, more: Tensor) -> Tensor: ...
    def result(self, denominator: float) -> State: ...


class Total:
    """Screens a round's updates and adds them up. keep_models: whether the algorithm needs all single models, too.

    With --secure_aggregation each client applies `examine` to its own update before it masks it, because the server
    cannot check a masked update. If too few updates are left to unmask the sum, none counts.
    """

    def __init__(self, now: RoundStart, aggregate: Aggregate, keep_models: bool = False):
        self.now, self.aggregate = now, aggregate
        self.models = Models(now) if keep_models else None
        self.reports: list[Report] = []
        self.weights: dict[int, float] = {}
        self.rejected: dict[int, str] = {}
        self.kept: dict[int, dict[str, Any]] = {}

    @torch.inference_mode()
    def add(self, update: Update, weights: Sequence[float]) -> None:
        """weights: of the S models in the mean. Of an update that `examine` rejects, only the reason is kept."""
        reasons = examine(update, self.now)
        if any(reasons):
            self.rejected |= {r.client: why for r, why in zip(update.reports, reasons, strict=True) if why}
            good = [i for i, reason in enumerate(reasons) if not reason]
            if not good:
                return
            weights = [weights[i] for i in good]
            w = {name: tensor[good] for name, tensor in update.w.items()}
            update = update._replace(reports=[update.reports[i] for i in good], w=w)
        self.reports += update.reports
        for report, weight in zip(update.reports, weights, strict=True):
            self.weights[report.client] = weight
            if report.client in update.kept:
                self.kept[report.client] = update.kept[report.client]
        self.aggregate.add(update, weights)
        if self.models:
            self.models.add(update)

    def gather(self, group: Group) -> Got:
        """What all ranks have got, at every rank."""
        self.reports = sorted(with_losses(self.reports), key=lambda report: report.client)
        if group.size > 1:
            table = self.aggregate.gather(group, self.table())
            self.read_table(table)
            if bool(table[:, KEPT].any()):
                self.kept = group.union(self.kept)
            if self.models:
                self.models.gather(group)
        if len(self.reports) < fewest_reports(self.now.config, self.now.cohort.got_the_model):
            self.rejected |= {report.client: STILL_MASKED for report in self.reports}
            self.reports, self.kept = [], {}
        clients = [report.client for report in self.reports]
        denominator = math.fsum(self.weights[k] for k in clients)  # the same, whatever the grouping
        return Got(
            mean=self.aggregate.result(denominator) if clients else self.now.w,
            reports=self.reports,
            rejected=self.rejected,
            kept=self.now.kept.with_clients(self.kept) if self.kept else self.now.kept,
            models=self.models.of(clients) if self.models else {},
            costs=getattr(self.aggregate, "costs", {}),
        )

    def table(self) -> Tensor:
        """(m, 8) float64: one row per client of the round; zeros for the clients of other ranks."""
        rows = {k: [0.0] * COLUMNS for k in self.now.sizes}
        for r in self.reports:
            k, loss = r.client, float(r.loss)
            rows[k] = [loss, r.n_k, r.examples, r.steps, self.weights[k], float(k in self.kept), 0.0, r.clipped]
        for k, reason in self.rejected.items():
            rows[k][REASON] = 1.0 + REASONS.index(reason)
        return torch.tensor([*rows.values()], dtype=torch.float64).view(-1, COLUMNS)

    def read_table(self, table: Tensor) -> None:
        """The reverse, of the tables of all ranks added up."""
        self.reports, self.rejected = [], {}
        for k, row in zip(self.now.sizes, table.tolist(), strict=True):
            loss, n_k, examples, steps, self.weights[k], _, reason, clipped = row
            if reason:
                self.rejected[k] = REASONS[int(reason) - 1]
            else:
                self.reports.append(Report(k, int(n_k), loss, int(examples), int(steps), clipped))


KEPT, REASON, COLUMNS = 5, 6, 8  # of the table


def examine(update: Update, now: RoundStart) -> list[str | None]:
    """For each of the S updates, why it is rejected; None if it is accepted."""
    if {k: x.shape[1:] for k, x in update.w.items()} != {k: x.shape for k, x in now.w.items()}:
        return [WRONG_SHAPE for _ in update.reports]
    whole = torch.stack([tensor.reshape(len(tensor), -1).sum(1) for tensor in floating(update.w).values()]).sum(0)
    return [
        NOT_FINITE if not math.isfinite(total) else ABSURD_WEIGHT if not 0 < report.n_k <= now.n else None
        for report, total in zip(update.reports, whole.tolist(), strict=True)
    ]


def with_losses(reports: Sequence[Report]) -> list[Report]:
    """The reports with losses that are numbers; those on a device are read all at once."""
    there = {i: report.loss for i, report in enumerate(reports) if isinstance(report.loss, Tensor)}
    here = dict(zip(there, torch.stack([*there.values()]).tolist(), strict=True)) if there else {}
    return [report._replace(loss=here[i]) if i in here else report for i, report in enumerate(reports)]
