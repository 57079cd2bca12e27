"""Experience replay: keep some of every task's demonstrations and mix them into later batches.

Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019 (arXiv 1902.10486).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from vla_cl.data import Batch, ReplayMemory, WindowDataset, concatenate
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.seeding import numpy_generator
from vla_cl.strategies.base import STRATEGIES, Needs, Strategy
from vla_cl.tasks import Task


@STRATEGIES.decorator("replay")
class Replay(Strategy):
    """Experience replay from a memory of indices into the demonstration files.

    The batch keeps its size: a share `ratio` of its rows comes from the memory, so a step costs what it costs
    without replay. An empty memory leaves the batch alone: with a budget of 0 this is sequential fine-tuning.
    """

    needs: ClassVar[Needs] = Needs(raw_data=True)

    @dataclass
    class Options:
        """Budget and mixture.

        Args:
            fraction: Share of each task's episodes (or windows) that is kept, 0 to 1; used unless `count` is set.
            count: Number kept from each task.
            by: "episode" keeps whole episodes, "transition" single windows.
            ratio: Share of each batch that is replayed, 0 to 1.
        """

        fraction: float = 0.2
        count: int | None = None
        by: str = "episode"
        ratio: float = 0.5

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if not 0.0 <= options.fraction <= 1.0:
            raise ConfigurationError(f"strategy.fraction must be 0 to 1, got {options.fraction}")
        if not 0.0 <= options.ratio <= 1.0:
            raise ConfigurationError(f"strategy.ratio must be 0 to 1, got {options.ratio}")
        if options.by not in ("episode", "transition"):
            raise ConfigurationError(f"strategy.by must be 'episode' or 'transition', got {options.by!r}")
        if options.count is not None and options.count < 0:
            raise ConfigurationError(f"strategy.count must be at least 0, got {options.count}")
        self.memory = ReplayMemory()
        self.draws = 0

    def batch(self, batch: Batch) -> Batch:
        replayed = round(self.options.ratio * len(batch))
        if not len(self.memory) or not replayed:
            return batch
        generator = numpy_generator(self.seed, "replay", self.draws)
        self.draws += 1
        return concatenate([batch[: len(batch) - replayed], self.memory.sample(replayed, generator)])

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        generator = numpy_generator(self.seed, "memory", self.stage)
        budget: dict[str, Any] = (
            {"fraction": self.options.fraction} if self.options.count is None else {"count": self.options.count}
        )
        self.memory.add(data, by=self.options.by, generator=generator, **budget)

    @property
    def memory_bytes(self) -> int:
        return self.memory.bytes

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "memory": self.memory.state_dict(), "draws": self.draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.memory.load_state_dict(state["memory"])
        self.draws = int(state["draws"])
