"""The stacked engine: the clients of a stack advance together, one step of all of them at a time.

Parameters have a leading dimension S, with one entry for each client. Clients have different numbers of examples and
therefore of steps. A stack is sorted by the number of steps, most first, so that the clients that still train are
always its first ones. A batch smaller than B is padded with examples of weight 0, and each real example has the weight
1 / (true size of the batch). This is exact: it gives the sequential engine's result up to the order of floating-point
sums.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.dataset import Dataset
from data.partition import Partition
from fl.client import gradient_sums, steps_of
from fl.config import Config
from fl.device import accumulator_dtype, send
from fl.engines.stacked.functional import is_vectorised
from fl.engines.stacked.graphed import Graphed
from fl.engines.stacked.hand_made import has_hand_made_layers
from fl.engines.stacked.network import Network
from fl.engines.stacked.schedule import Member, schedule
from fl.engines.stacked.stack import Stack
from fl.state import Correction, Report, RoundStart, State, Tell, Update, tell_nothing

BLOCK = 128  # examples of a client made into inputs at once: enough for efficient products, few enough for a cache
USUALLY_FREE = 4 << 30  # bytes of memory, where the system does not say
VECTOR = 16  # float32 numbers in the widest vector of a CPU


def obstacle_to_stacking(model: nn.Module, data: Dataset) -> str | None:
    """What keeps clients with this model and data from being stacked, or None."""
    if not all(p.requires_grad for p in model.parameters()):
        return "has frozen parameters"
    if len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters())):
        return "shares parameters between its layers"
    if any(True for _ in model.buffers()):
        return "has buffers, and statistics of a padded batch would be wrong"
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            return f"has {type(module).__name__}, whose batch or draws belong to one client"
    if data.train.targets.dim() > 1:
        return "has several targets an example, and a stack's loss knows one"
    if not has_hand_made_layers(model, data.shape) and not is_vectorised(model, data):
        return "does something in its layers that torch.func cannot do for several clients at once, such as to draw"
    return None


class Stacked:
    """As Sequential, for models without an `obstacle_to_stacking`.

    stack_size: the largest number of clients in a stack; 0 chooses one. tick: called after every step with the number
    of clients that took it. graphs: wraps each network so that its steps are recorded and replayed; the default is
    Graphed on CUDA, and none elsewhere.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        partition: Partition,
        config: Config,
        tick: Callable[[int], None] = lambda steps: None,
        stack_size: int = 0,
        graphs: Callable[[Network], Network] | None = None,
    ):
        self.model, self.data, self.partition, self.config, self.tick = model, data, partition, config, tick
        self.device = data.train.targets.device
        self.hand_made = has_hand_made_layers(model, data.shape)
        self.graphs = graphs or (Graphed if self.device.type == "cuda" else None)
        self.indices = partition.indices.to(self.device)
        self.classes = torch.arange(data.classes, device=self.device).unsqueeze(1)
        self.stack_size = stack_size or default_stack_size(model, data, config)
        # By S, B and which parts a correction has; those used last are the last.
        self.stacks: dict[tuple[int, int, bool, bool], Stack] = {}

    def train(self, clients: Sequence[int], now: RoundStart, tell: Tell = tell_nothing) -> Iterator[Update]:
        """Algorithm 1: w_{t+1}^k <- ClientUpdate(k, w_t), for k in S_t, a stack at a time.

        Only clients with the same size of a full minibatch are stacked. With padding, the shapes of a client's matrix
        products would depend on the other clients in its stack, and so would the last bits of its result.
        """
        alike: dict[int, list[Member]] = {}
        for k, (start, n_k) in zip(clients, (now.partition or self.partition).spans_of(clients), strict=True):
            member = Member(k, start, n_k, now.epochs_of(k))
            alike.setdefault(min(self.config.batch_size or n_k, n_k), []).append(member)
        for members in alike.values():
            for first in range(0, len(members), self.stack_size):
                # Inference mode makes every view and call cheaper, because autograd does not watch; torch.func needs
                # it to. Autocast is off because the layers see to their arithmetic themselves.
                with torch.inference_mode(self.hand_made), torch.autocast(self.device.type, enabled=False):
                    update = self.train_stack(members[first : first + self.stack_size], now, tell)
                yield update

    def gradients(self, clients: Sequence[int], now: RoundStart) -> Iterator[tuple[int, State]]:
        yield from gradient_sums(self.model, self.data, now.partition or self.partition, clients, now.w)

    @torch.no_grad()
    def train_stack(self, members: Sequence[Member], now: RoundStart, tell: Tell) -> Update:
        # Those with most steps first.
        ordered = sorted(members, key=lambda one: (-steps_of(self.config, one.n_k, one.E), -one.n_k))
        steps = [steps_of(self.config, one.n_k, one.E) for one in ordered]
        positions, weights, draws = schedule(self.config, now.t, ordered, self.data)  # (S, steps, B) each
        indices = self.indices if now.partition is None else now.partition.indices.to(self.device)
        rows = indices[positions]
        S, _, B = rows.shape
        told = tell([one.k for one in ordered])
        stack = self.stack_of(S, B, told.correction)
        stack.start_round(now.w | (told.start or {}), self.config.lr(now.t), told.correction)

        loss = torch.zeros(S, dtype=accumulator_dtype(self.device), device=self.device)
        L = max(BLOCK // B, 1)
        for first in range(0, steps[0], L):
            counts = [min(n - first, L) for n in steps if n > first]
            block = slice(len(counts)), slice(first, first + counts[0])
            loss[: len(counts)].add_(
                self.train_block(stack, counts, rows[block], weights[block], None if draws is None else draws[block])
            )

        stack.finish_round()
        w_k, losses = stack.parameters, loss
        if ordered != list(members):
            place = {one.k: i for i, one in enumerate(ordered)}
            back = send([place[one.k] for one in members], torch.int64, self.device)
            w_k, losses = {name: tensor[back] for name, tensor in w_k.items()}, loss[back]
        reports = [
            Report(k, n_k, k_loss, E * n_k, steps_of(self.config, n_k, E))
            for (k, _, n_k, E), k_loss in zip(members, one_by_one(losses), strict=True)
        ]
        return Update(reports, w_k)

    def train_block(
        self, stack: Stack, counts: Sequence[int], rows: Tensor, weights: Tensor, draws: Tensor | None
    ) -> Tensor:
        """The steps of a block; client i takes counts[i] of them. Returns the clients' summed losses (S,).

        rows: indices of training examples. weights, draws: see Schedule. (S, l, B) each.
        """
        S, steps, B = rows.shape
        x = self.data.inputs(rows, draws)  # (S, l, B, ...)
        weight, y = side_by_side(weights), self.data.train.targets[side_by_side(rows)]  # (l, columns)
        target = (y.unsqueeze(1) == self.classes) * weight.unsqueeze(1)  # (l, classes, columns)
        logits = torch.zeros_like(target)
        stack.start_block(x, counts)
        stack.keep_first(active := S)
        for s, step in enumerate(zip(target.unbind(), weight.unbind(), logits.unbind(), strict=True)):
            if counts[active - 1] == s:
                active = sum(count > s for count in counts)
                stack.keep_first(active)
            stack.step(s, *step)
            self.tick(active)
        stack.finish_block()
        losses = F.log_softmax(logits, 1).gather(1, y.unsqueeze(1)).squeeze(1).neg_()  # (l, columns)
        losses = losses.masked_fill_(weight == 0, 0)[:, : S * B].view(steps, S, B)
        return losses.transpose(0, 1).flatten(1).sum(1, dtype=accumulator_dtype(self.device))

    def stack_of(self, S: int, B: int, correction: Correction) -> Stack:
        """S clients for minibatches of B: those of an earlier round, or new ones.

        At most 2 stack_size clients are kept: a full stack and what is left of a cohort.
        """
        key = S, B, correction.scale is None, correction.anchor is None
        stack = self.stacks.pop(key, None)
        while self.stacks and S + sum(kept.S for kept in self.stacks.values()) > 2 * self.stack_size:
            del self.stacks[next(iter(self.stacks))]
        self.stacks[key] = stack = stack or Stack(self.model, self.data.shape, S, self.config, correction, self.graphs)
        return stack


def side_by_side(tensor: Tensor) -> Tensor:
    """(S, l, B) to (l, columns): the examples of a step's S minibatches one after another, and zeros.

    Logits and targets are (l, classes, columns), because on a CPU a softmax over the innermost ten numbers is many
    times slower. The zeros give each thread whole vectors of columns, because a softmax computes the columns that do
    not fill a vector in another way, so that a client's bits would depend on where in the stack it is.
    """
    S, steps, B = tensor.shape
    unit = VECTOR * torch.get_num_threads() if tensor.device.type == "cpu" else 1
    columns = tensor.new_zeros(steps, -(-S * B // unit) * unit)
    columns[:, : S * B].view(steps, S, B).copy_(tensor.transpose(0, 1))
    return columns


def one_by_one(losses: Tensor) -> Sequence[Tensor | float]:
    """The S losses of (S,): Python numbers on a CPU, else tensors, because reading a number would wait for the GPU."""
    return losses.tolist() if losses.device.type == "cpu" else losses.unbind()


def default_stack_size(model: nn.Module, data: Dataset, config: Config) -> int:
    """As many clients as half of the free memory holds; one on a CPU where convolutions would become grouped."""
    device = data.train.targets.device
    if device.type == "cpu" and any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return 1
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        try:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):  # Linux alone says how much is free
            free = USUALLY_FREE
    parameters = sum(p.nbytes for p in model.parameters())
    batch = (config.batch_size or len(data.train) // config.num_clients) * data.train.examples[0].numel() * 4
    # A client has weights, gradients, two moments and two sums, each as large as its parameters. Its activations are
    # taken to be 64 times as large as its inputs, because a layer may have 64 channels.
    return max(1, int(free / 2 / (6 * parameters + 64 * batch)))
