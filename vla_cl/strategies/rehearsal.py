"""What strategies share that keep some of every task's demonstrations: how much, which, and by which rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from vla_cl.data import RESERVOIR_RULES, UNITS, Batch, ReplayMemory, Reservoir, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.seeding import numpy_generator
from vla_cl.strategies.base import Needs, Strategy
from vla_cl.tasks import Task


class Rehearsal(Strategy):
    """Base of strategies with a memory of earlier demonstrations, which is indices into their files.

    With `keep=task` a part of each task is kept at its end; while that task is learned again, its part is out of the
    memory, since all of it is there. By the other rules the memory learns from the batches that come by, so it needs no
    boundaries, and holds some of the present task, too; a subclass calls `observe` with each.

    Attributes:
        memory: What is kept.
    """

    needs: ClassVar[Needs] = Needs(raw_data=True)

    @dataclass
    class Options:
        """What is kept.

        Args:
            fraction: Share of each task's episodes (or phases, or windows) that `keep=task` keeps, 0 to 1; used unless
                `count` is set.
            count: Number that `keep=task` keeps from each task.
            by: "episode" keeps whole episodes, "phase" parts of episodes, "transition" single windows.
            phases: Into how many equally long parts "phase" cuts an episode.
            keep: "task": the same share or number of each task, drawn at its end. The others keep `capacity` windows of
                all tasks together, from the stream: "reservoir", a uniform sample of what came by; "balanced", equally
                many of each task; "ring", the same, the newest of each (see `vla_cl.data.Reservoir`).
            capacity: Windows kept in all, unless `keep=task`.
        """

        fraction: float = 0.2
        count: int | None = None
        by: str = "episode"
        phases: int = 3
        keep: str = "task"
        capacity: int = 1000

    task_free_with: ClassVar[str] = "keep=reservoir"

    def __init__(self, options: Any, seed: int) -> None:
        super().__init__(options, seed)
        if not 0.0 <= options.fraction <= 1.0:
            raise ConfigurationError(f"strategy.fraction must be 0 to 1, got {options.fraction}")
        if options.by not in UNITS:
            raise ConfigurationError(f"strategy.by must be one of {', '.join(UNITS)}, got {options.by!r}")
        if options.keep not in ("task", *RESERVOIR_RULES):
            raise ConfigurationError(
                f"strategy.keep must be one of task, {', '.join(RESERVOIR_RULES)}, got {options.keep!r}"
            )
        if options.count is not None and options.count < 0:
            raise ConfigurationError(f"strategy.count must be at least 0, got {options.count}")
        if options.phases < 1:
            raise ConfigurationError(f"strategy.phases must be at least 1, got {options.phases}")
        if options.capacity < 0:
            raise ConfigurationError(f"strategy.capacity must be at least 0, got {options.capacity}")
        self.reservoir = (
            None
            if options.keep == "task"
            else Reservoir(options.capacity, options.keep, seed, by=options.by, phases=options.phases)
        )
        self.memory = self.reservoir.memory if self.reservoir else ReplayMemory()
        self.task_free = self.reservoir is not None  # type: ignore[misc]

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        if not self.reservoir:
            self.memory.drop(self.memory.rows(data))

    def observe(self, batch: Batch) -> None:
        """See what comes by."""
        if self.reservoir:
            self.reservoir.offer(batch)

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        if self.reservoir:
            return
        options = self.options
        budget = {"fraction": options.fraction} if options.count is None else {"count": options.count}
        generator = numpy_generator(self.seed, "memory", self.stage)
        self.memory.add(data, by=options.by, phases=options.phases, generator=generator, **budget)

    @property
    def memory_bytes(self) -> int:
        return self.memory.bytes

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "memory": (self.reservoir or self.memory).state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        (self.reservoir or self.memory).load_state_dict(state["memory"])
