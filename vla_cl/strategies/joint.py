"""Joint training: every stage trains on the demonstrations of all tasks so far. The upper reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from vla_cl.data import Batch, ReplayMemory, WindowDataset, concatenate
from vla_cl.policies import Policy
from vla_cl.seeding import numpy_generator
from vla_cl.strategies.base import STRATEGIES, Needs, Strategy
from vla_cl.tasks import Task


@STRATEGIES.decorator("joint")
class Joint(Strategy):
    """Cumulative multi-task training.

    Each row of a batch comes from an earlier task with the probability that a uniform draw from all windows seen so
    far would have it. The weights carry over from stage to stage, so the last stage has seen every task and the whole
    training budget. With one task this is single-task training.
    """

    needs: ClassVar[Needs] = Needs(raw_data=True)

    def __init__(self, options: Any, seed: int) -> None:
        super().__init__(options, seed)
        self.memory = ReplayMemory()
        self.present_windows = 0
        self.draws = 0

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        self.present_windows = len(data)

    def batch(self, batch: Batch) -> Batch:
        if not len(self.memory):
            return batch
        generator = numpy_generator(self.seed, "joint", self.draws)
        self.draws += 1
        share = len(self.memory) / (len(self.memory) + self.present_windows)
        earlier = int(generator.binomial(len(batch), share))
        if earlier == 0:
            return batch
        return concatenate([batch[: len(batch) - earlier], self.memory.sample(earlier, generator)])

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        generator = numpy_generator(self.seed, "memory", self.stage)
        self.memory.add(data, fraction=1.0, by="transition", generator=generator)

    @property
    def memory_bytes(self) -> int:
        return self.memory.bytes

    def state_dict(self) -> dict[str, Any]:
        own = {"memory": self.memory.state_dict(), "present_windows": self.present_windows, "draws": self.draws}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.memory.load_state_dict(state["memory"])
        self.present_windows = int(state["present_windows"])
        self.draws = int(state["draws"])
