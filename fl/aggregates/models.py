"""All models of a round at once, for rules and algorithms that need more than their sum."""

from __future__ import annotations

from fl.group import Group
from fl.state import RoundStart, State, Update


class Models:
    """stacked: each tensor (m, ...), one row per client of the round, ascending; zeros where no model came."""

    def __init__(self, now: RoundStart):
        self.row = {k: i for i, k in enumerate(now.sizes)}
        self.stacked: State = {name: x.new_zeros(len(now.sizes), *x.shape) for name, x in now.w.items()}

    def add(self, update: Update) -> None:
        rows = [self.row[report.client] for report in update.reports]
        for name, tensor in update.w.items():
            self.stacked[name][rows] = tensor

    def gather(self, group: Group) -> None:
        """Those of all ranks, at every rank."""
        if group.size > 1:
            self.stacked = {name: group.sum(tensor) for name, tensor in self.stacked.items()}

    def of(self, clients: list[int]) -> State:
        """(len(clients), ...) each."""
        rows = [self.row[k] for k in clients]
        return {name: tensor[rows] for name, tensor in self.stacked.items()}
