"""InfLoRA: an adapter whose input directions are chosen beforehand, outside of what earlier tasks put into the layer.

Liang & Li, "InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning", CVPR 2024 (arXiv 2404.00228).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import factors, set_active
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.layer_statistics import input_moments
from vla_cl.strategies.low_rank import LowRankStrategy
from vla_cl.strategies.subspaces import SubspaceMemory
from vla_cl.tasks import Task


@STRATEGIES.decorator("inflora")
class InfLoRA(LowRankStrategy):
    """For each adapted layer, M spans what the inputs of earlier tasks occupy, H holds the present task's inputs:

    - before the task: `A = U_r^T / sqrt(3)`, U_r the top r left singular vectors of `(I - M M^T) H`; A is frozen;
    - the task trains B, with all adapters active, as when acting: `h = W x + sum_i alpha / rank B_i A_i x`;
    - after it: M grows until it holds a share eps of its inputs' energy, `eps = first + (last - first) t / tasks`.

    Since A M = 0, inputs in M give what they gave before. Energy is the inputs', as we read it; the published
    code squares it, which occupies less. Ours: the head's layers are adapted, too, and M takes the inputs of a first
    task that trains the base weights. A task that comes again trains a new adapter, since its old one is not orthogonal
    to what came after.
    """

    @dataclass
    class Options(LowRankStrategy.Options):
        """Those of every low-rank strategy, and those of the subspaces.

        Args:
            first_energy: eps of the first task, 0 to 1.
            last_energy: eps where it ends, `first_energy` to 1.
            tasks: Over how many tasks it rises, at least 1; later ones keep `last_energy`.
            samples: Windows from which a task's inputs are taken.
        """

        first_energy: float = 0.98
        last_energy: float = 1.0
        tasks: int = 10
        samples: int = 256

    options: Options

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if not 0.0 <= options.first_energy <= 1.0:
            raise ConfigurationError(f"strategy.first_energy must be 0 to 1, got {options.first_energy}")
        if not options.first_energy <= options.last_energy <= 1.0:
            raise ConfigurationError(
                f"strategy.last_energy must be first_energy={options.first_energy} to 1, got {options.last_energy}"
            )
        for key in ("tasks", "samples"):
            if getattr(options, key) < 1:
                raise ConfigurationError(f"strategy.{key} must be at least 1, got {getattr(options, key)}")
        self.memory = SubspaceMemory()

    @property
    def energy(self) -> float:
        """eps of the present task."""
        first, last = self.options.first_energy, self.options.last_energy
        return min(last, first + (last - first) * self.stage / self.options.tasks)

    def adapter_name(self, task: Task) -> str:
        return f"task_{self.stage}"

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        set_active(policy, self.adapters)
        name = self.owners[task.name]
        if name is not None:
            self._design(policy, name, data)

    @torch.no_grad()
    def _design(self, policy: Policy, name: str, data: WindowDataset) -> None:
        """Choose A of each layer, and freeze it."""
        adapter = factors(policy, name)
        moments = input_moments(policy, data, list(adapter), self.options.samples, self.seed, "before", self.stage)
        for layer, factor in adapter.items():
            directions = self.memory.free_directions(layer, moments[layer], self.options.rank)
            factor.down.copy_(directions.T.reshape(factor.down.shape) / math.sqrt(3))
            factor.down.requires_grad_(False)

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().end_task(task, policy, data)
        layers = self.adapted_layers(policy)
        moments = input_moments(policy, data, layers, self.options.samples, self.seed, "after", self.stage)
        self.memory.extend(moments, self.energy)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "memory": self.memory.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.memory.load_state_dict(state["memory"])
