"""Cumulative training: at each boundary start anew, and train on the demonstrations of all tasks so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vla_cl.data import WindowDataset
from vla_cl.policies import Policy
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.initial_weights import InitialWeights
from vla_cl.strategies.joint import Joint
from vla_cl.tasks import Task


@STRATEGIES.decorator("cumulative")
class Cumulative(Joint):
    """What a policy of this kind learns from all data up to a task in one task's training steps.

    Batches are `joint`'s. Every stage starts from the weights that the first one started from, so nothing is carried
    over but data: forgetting under this strategy is a lack of capacity or of steps, never interference of what came
    after.
    """

    def __init__(self, options: Any, seed: int) -> None:
        super().__init__(options, seed)
        self.initial = InitialWeights()

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        self.initial.keep_or_restore(policy)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "initial": self.initial.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.initial.weights = dict(state["initial"])
