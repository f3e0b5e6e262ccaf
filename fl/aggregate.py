"""What the server makes of the updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fl.device import send
from fl.group import Group
from fl.state import Report, State, floating

CHUNK = 1 << 17  # values at once: the passes of a float64 sum over so many stay in a core's cache
COARSE = 1.5 * 2.0**32  # adding and subtracting this rounds a float64 below 2^31 to a multiple of 2^-20


class WeightedMean:
    """w_{t+1} <- sum over k in S_t of n_k / n w_{t+1}^k, with n the examples of the clients that reported.

    Algorithm 1 of McMahan et al. 2017. Updates are added as they come, so the cohort need not be in memory at
    once, and partial sums of several workers may be added up: the result has the same bits whatever the order
    and the grouping. For that each product n_k w (in float64: exact for float32 w and n_k below 2^29) is split
    into a multiple of 2^-20 and a remainder rounded to a multiple of a still smaller power of two, chosen so
    that neither sum over the cohort can round (Demmel and Nguyen 2015, "Parallel reproducible summation").
    It holds while the sum of n_k |w| stays below 2^31. Equal models have themselves as mean, to the bit,
    where |w| is 0 or at least 2^-47 m. Weights that are not numbers of examples may be of any size if `largest`
    is given: all of them are then brought near 1 by a power of two, which rounds nothing.

    Integer buffers (BatchNorm's counter) have no meaningful mean: the maximum is taken.
    """

    def __init__(self, like: State, m: int, largest: float = 1.0):
        """like: a state_dict with the names, shapes, dtypes and device of the updates; m: cohort size, at most.

        largest: of all weights, the same for every worker; between 1 and 2^29 they are taken as they are.
        """
        self.like = like
        self.floating = [name for name, tensor in like.items() if tensor.is_floating_point()]
        self.sizes = [like[name].numel() for name in self.floating]
        device = next(iter(like.values())).device
        if device.type == "mps":
            device = torch.device("cpu")  # Apple's GPUs have no float64
        # Of multiples of 2^-20, and of remainders.
        self.sums = torch.zeros(2, sum(self.sizes), dtype=torch.float64, device=device)
        self.maxima: State = {}
        exponent = math.frexp(largest)[1] - 1
        self.shift = 0 if 0 <= exponent < 29 else -exponent  # weights are multiplied by 2^shift
        self.n = 0.0  # the sum of those products
        # m remainders of at most 2^-21 each add up to less than half of this constant.
        self.fine = 1.5 * 2.0 ** (math.ceil(math.log2(max(m, 1))) - 19)

    def add(self, w: State, n_k: Sequence[float]) -> None:
        """w: the models of len(n_k) clients, stacked: each tensor (S, ...). n_k: their weights."""
        S = len(n_k)
        n_k = [math.ldexp(weight, self.shift) for weight in n_k]
        weights = send(n_k, torch.float64, self.sums.device).unsqueeze(1)  # (S, 1)
        width = max(CHUNK // S, 1)
        start = 0
        for names in together(self.floating, self.sizes, width):
            parts = [w[name].reshape(S, -1).to(self.sums.device) for name in names]
            stack = parts[0] if len(parts) == 1 else torch.cat(parts, 1)  # (S, P)
            for v in stack.split(width, 1):
                v = v.to(torch.float64, copy=True).mul_(weights)
                coarse = (v + COARSE).sub_(COARSE)
                remainder = v.sub_(coarse).add_(self.fine).sub_(self.fine)
                stop = start + v.shape[1]
                self.sums[0, start:stop].add_(coarse.sum(0) if S > 1 else coarse[0])
                self.sums[1, start:stop].add_(remainder.sum(0) if S > 1 else remainder[0])
                start = stop
        for name in self.like.keys() - set(self.floating):
            stacked = w[name].amax(0)
            self.maxima[name] = torch.maximum(self.maxima.get(name, stacked), stacked)
        self.n += sum(n_k)

    def combine(self, group: Group, reports: Tensor) -> Tensor:
        """Add up the sums of all ranks, and their reports (m, columns) float64 with zeros for the others' clients.

        One reduction for both. Returns the summed reports, from which the caller knows n.
        """
        if group.size == 1:
            return reports
        both = group.sum(torch.cat([self.sums.flatten(), reports.flatten()]))
        self.sums, reports = both[: self.sums.numel()].view(2, -1), both[self.sums.numel() :].view_as(reports)
        for name in self.like.keys() - set(self.floating):
            lowest = torch.full_like(self.like[name], torch.iinfo(self.like[name].dtype).min)
            self.maxima[name] = group.max(self.maxima.get(name, lowest))
        return reports

    def result(self) -> State:
        """The mean, in the dtypes and on the device of `like`. At least one update must have been added."""
        mean = self.sums[0].add(self.sums[1]).div_(self.n)
        w: State = {}
        start = 0
        for name, tensor in self.like.items():
            if name in self.maxima:
                w[name] = self.maxima[name]
                continue
            part: Tensor = mean[start : start + tensor.numel()]
            w[name] = part.view(tensor.shape).to(tensor)
            start += tensor.numel()
        return w


def together(names: Sequence[str], sizes: Sequence[int], width: int) -> Iterator[list[str]]:
    """The names in order, neighbours of at most `width` values put together: small tensors cost a call each."""
    group: list[str] = []
    total = 0
    for name, size in zip(names, sizes, strict=True):
        if group and total + size > width:
            yield group
            group, total = [], 0
        group.append(name)
        total += size
    if group:
        yield group


Rule = Callable[[Tensor, Tensor], Tensor]  # models (m, P) and their weights (m,) to one model (P,)
NOT_FINITE, WRONG_SHAPE, ABSURD_WEIGHT = REASONS = ("not finite", "wrong shape", "absurd weight")


def read(reports: Sequence[Report]) -> list[Report]:
    """With losses that are numbers, of which those on a device come at once."""
    there = {i: report.loss for i, report in enumerate(reports) if isinstance(report.loss, Tensor)}
    here = dict(zip(there, torch.stack([*there.values()]).tolist(), strict=True)) if there else {}
    return [report._replace(loss=here[i]) if i in here else report for i, report in enumerate(reports)]


class Updates:
    """The updates of a round: examined as they come in, then averaged, or kept for a rule that needs all of them.

    trained: the names of the parameters. weight(report): of a client's parameters in the mean; the other tensors are
    statistics of its examples, not the end of its steps, so they weigh n_k whatever the algorithm. n: examples of all
    clients, more than which no one can have. rule: None for the weighted mean. keep: whether `models` is wanted.
    After `gather`: `reports` of the clients that count, ascending, at every rank; `rejected`, reasons by client;
    and `models`, theirs in the same order, (m, ...) each.
    """

    def __init__(
        self,
        like: State,
        trained: Sequence[str],
        S_t: Sequence[int],
        weight: Callable[[Report], float],
        n: int,
        rule: Rule | None = None,
        keep: bool = False,
    ):
        self.like, self.S_t, self.weight, self.n, self.rule = like, S_t, weight, n, rule
        m = len(S_t)
        parameters = {name: x for name, x in like.items() if name in trained}
        buffers = {name: x for name, x in like.items() if name not in trained}
        self.means: list[tuple[WeightedMean, Callable[[Report], float]]] = []
        if rule is None:
            self.means = [(WeightedMean(parameters, m), weight)]
            if buffers:
                self.means.append((WeightedMean(buffers, m), lambda report: report.n_k))
        self.models = {name: x.new_zeros(m, *x.shape) for name, x in like.items()} if keep or rule else None
        self.reports: list[Report] = []
        self.rejected: dict[int, str] = {}

    @torch.inference_mode()
    def add(self, reports: Sequence[Report], w: State) -> None:
        """The reports of S clients and their models, stacked: (S, ...) each."""
        reasons = self.examine(reports, w)
        self.rejected |= {r.client: reason for r, reason in zip(reports, reasons, strict=True) if reason}
        if any(reasons):
            good = [i for i, reason in enumerate(reasons) if not reason]
            reports, w = [reports[i] for i in good], {name: tensor[good] for name, tensor in w.items()}
        self.reports += reports
        for mean, weight in self.means if reports else []:
            mean.add(w, [weight(report) for report in reports])
        if self.models and reports:
            rows = [self.S_t.index(report.client) for report in reports]
            for name, tensor in w.items():
                self.models[name][rows] = tensor

    def examine(self, reports: Sequence[Report], w: State) -> list[str | None]:
        """Why each of the updates is turned away; None if it is not."""
        if {k: x.shape[1:] for k, x in w.items()} != {k: x.shape for k, x in self.like.items()}:
            return [WRONG_SHAPE for _ in reports]
        whole = sum(tensor.flatten(1).sum(1) for tensor in floating(w).values())
        assert isinstance(whole, Tensor)
        return [
            NOT_FINITE if not math.isfinite(total) else ABSURD_WEIGHT if not 0 < report.n_k <= self.n else None
            for report, total in zip(reports, whole.tolist(), strict=True)
        ]

    def gather(self, group: Group) -> None:
        """What all ranks have, at every rank."""
        self.reports = read(self.reports)
        self.reports.sort(key=lambda report: report.client)
        if group.size > 1:
            self._gather(group)
        if self.models and self.rejected:
            rows = [self.S_t.index(report.client) for report in self.reports]
            self.models = {name: tensor[rows] for name, tensor in self.models.items()}

    def _gather(self, group: Group) -> None:
        table = torch.zeros(len(self.S_t), 5, dtype=torch.float64)  # loss, n_k, examples, steps, 1 + reason
        for r in self.reports:
            row = [float(r.loss), r.n_k, r.examples, r.steps, 0]
            table[self.S_t.index(r.client)] = torch.tensor(row, dtype=table.dtype)
        for k, reason in self.rejected.items():
            table[self.S_t.index(k), 4] = 1 + REASONS.index(reason)
        table = table.to(group.device)
        for mean, _ in self.means[1:]:
            mean.combine(group, table.new_zeros(0))
        table = self.means[0][0].combine(group, table) if self.means else group.sum(table)
        if self.models:
            self.models = {name: group.sum(tensor) for name, tensor in self.models.items()}
        self.reports, self.rejected = [], {}
        for k, (loss, n_k, examples, steps, reason) in zip(self.S_t, table.tolist(), strict=True):
            if reason:
                self.rejected[k] = REASONS[int(reason) - 1]
            else:
                self.reports.append(Report(k, int(n_k), loss, int(examples), int(steps)))

    def result(self) -> State:
        """One model of all. At least one update must have been accepted."""
        if self.means:
            w: State = {}
            for mean, weight in self.means:
                mean.n = math.fsum(weight(report) for report in self.reports)  # whatever the grouping
                w |= mean.result()
            return {name: w[name] for name in self.like}
        assert self.models
        assert self.rule
        weights = torch.tensor([self.weight(report) for report in self.reports], dtype=torch.float64)
        parts = {name: tensor.flatten(1) for name, tensor in floating(self.models).items()}
        flat = torch.cat(list(parts.values()), 1)  # (m, P)
        one = self.rule(flat, weights.to(flat)).split([part.shape[1] for part in parts.values()])
        w = {name: tensor.amax(0) for name, tensor in self.models.items() if name not in parts}
        w |= {name: part.view(self.like[name].shape) for name, part in zip(parts, one, strict=True)}
        return {name: w[name] for name in self.like}
