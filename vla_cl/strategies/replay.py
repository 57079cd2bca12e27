"""Experience replay: keep some of every task's demonstrations and mix them into later batches.

Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019 (arXiv 1902.10486).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_cl.data import Batch, WindowDataset, concatenate
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.seeding import numpy_generator
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.rehearsal import Rehearsal
from vla_cl.tasks import Task


@STRATEGIES.decorator("replay")
class Replay(Rehearsal):
    """Experience replay from a memory of indices into the demonstration files.

    The batch keeps its size: a share `ratio` of its rows comes from the memory, so a step costs what it costs without
    replay (the paper adds as many rows as come in). An empty memory leaves the batch alone: with a budget of 0 this is
    sequential fine-tuning. With `fraction=1 ratio=null` it is joint training.
    """

    @dataclass
    class Options(Rehearsal.Options):
        """Those of `Rehearsal`, which say what is kept, and the mixture.

        Args:
            ratio: Share of each batch that is replayed, 0 to 1; null, with `keep=task` alone, draws each row uniformly
                from all that is kept and the present task together.
        """

        ratio: float | None = 0.5

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if options.ratio is not None and not 0.0 <= options.ratio <= 1.0:
            raise ConfigurationError(f"strategy.ratio must be 0 to 1, got {options.ratio}")
        if options.ratio is None and self.reservoir:
            raise ConfigurationError(f"strategy.ratio must be a number with strategy.keep={options.keep}, got None")
        self.present = 0
        self.draws = 0

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        self.present = len(data)

    def batch(self, batch: Batch) -> Batch:
        mixed = self._mixed(batch)
        self.observe(batch)
        return mixed

    def _mixed(self, batch: Batch) -> Batch:
        """The batch, its last rows replaced by replayed ones."""
        if not len(self.memory) or self.options.ratio == 0:
            return batch
        generator = numpy_generator(self.seed, "replay", self.draws)
        self.draws += 1
        if self.options.ratio is None:
            share = len(self.memory) / (len(self.memory) + self.present)
            replayed = int(generator.binomial(len(batch), share))
        else:
            replayed = round(self.options.ratio * len(batch))
        if not replayed:
            return batch
        fresh = batch[: len(batch) - replayed]
        return concatenate([fresh, self.retrieve(fresh, replayed, generator)])

    def retrieve(self, fresh: Batch, n: int, generator: np.random.Generator) -> Batch:
        """n windows from the memory, to be learned together with fresh ones."""
        return self.memory.sample(n, generator)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "present": self.present, "draws": self.draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.present = int(state["present"])
        self.draws = int(state["draws"])
