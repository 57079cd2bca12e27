"""TAIL: an adapter a task, warm-started from the one before, chosen by the task's name.

Liu et al., "TAIL: Task-specific Adapters for Imitation Learning with Large Pretrained Models", ICLR 2024
(arXiv 2310.05905); its LoRA form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from vla_cl.data import ObservationBatch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import Route, factors
from vla_cl.seeding import torch_generator
from vla_cl.strategies.base import STRATEGIES, Needs
from vla_cl.strategies.low_rank import LowRankStrategy
from vla_cl.tasks import Task


@STRATEGIES.decorator("tail")
class TAIL(LowRankStrategy):
    """`pi_t(a | s) = pi(a | s; theta, omega_t)`: the base theta is frozen, task t trains omega_t alone, which starts at
    `omega_(t-1) + noise * N(0, I)`. A task that was never learned is met with the newest adapter (ours).
    """

    needs: ClassVar[Needs] = Needs(lora=True, task_id_at_test=True)

    @dataclass
    class Options(LowRankStrategy.Options):
        """Those of every low-rank strategy, and one.

        Args:
            noise: Standard deviation of what is added to the adapter that a new one starts from, at least 0.
        """

        noise: float = 1e-3

    options: Options

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if options.noise < 0:
            raise ConfigurationError(f"strategy.noise must be at least 0, got {options.noise}")

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        known, previous = set(self.adapters), policy.active_adapters
        super().begin_task(task, policy, data)
        name = self.owners[task.name]
        if name is not None and name not in known and previous:
            self._warm_start(policy, name, previous[0])

    @torch.no_grad()
    def _warm_start(self, policy: Policy, new: str, old: str) -> None:
        generator = torch_generator(self.seed, "warm start", new)
        earlier = factors(policy, old)
        for layer, present in factors(policy, new).items():
            for target, source in ((present.down, earlier[layer].down), (present.up, earlier[layer].up)):
                noise = torch.randn(source.shape, generator=generator).to(source.device)
                target.copy_(source + self.options.noise * noise)

    def route(self, observation: ObservationBatch) -> Route | None:
        if not self.adapters:
            return None
        task = observation.task[0] if observation.task else ""
        owner = self.owners.get(task, self.adapters[-1])
        return {} if owner is None else {owner: 1.0}
