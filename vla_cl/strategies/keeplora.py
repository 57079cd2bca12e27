"""KeepLoRA: adapters that learn where the task's gradient points, outside of what the weights and earlier tasks use.

Luo et al., "KeepLoRA: Continual Learning with Residual Gradient Adaptation", ICLR 2026 (arXiv 2601.19659).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import factors
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.layer_statistics import base_layer, input_moments, mean_weight_gradients
from vla_cl.strategies.low_rank import LowRankStrategy
from vla_cl.strategies.subspaces import SubspaceMemory
from vla_cl.tasks import Task


@STRATEGIES.decorator("keeplora")
class KeepLoRA(LowRankStrategy):
    """For each adapted layer, M spans the principal subspace, on the side of the inputs:

    - at first, M holds a share `weight_energy` of |W|^2 of the frozen weight W: its top right singular vectors;
    - before a task: G is the mean gradient of its loss by W; `A = V_r^T`, V_r the top r right singular vectors of
      `G (I - M M^T)`; A is frozen, B = 0;
    - the task trains B: `h = W x + alpha / rank B A x`;
    - after it: `W <- W + alpha / rank B A`, and M grows until it holds a share `input_energy` of |X|^2 of the task's
      inputs X to the layer.

    The paper writes W transposed, hence left singular vectors there. Ours: the head's layers are adapted, too; after a
    first task that trains the base weights M holds its weights and its inputs.
    """

    @dataclass
    class Options(LowRankStrategy.Options):
        """Those of every low-rank strategy, and those of the subspaces.

        Args:
            weight_energy: Share of the weights' energy that is kept free of changes, 0 to 1; 0 protects none of it.
                The paper takes 0.85 in a vision transformer.
            input_energy: The same for the inputs of every task. The paper takes 0.99.
            samples: Windows from which a task's gradient and inputs are taken.
        """

        weight_energy: float = 0.85
        input_energy: float = 0.99
        samples: int = 256

    options: Options

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        for key in ("weight_energy", "input_energy"):
            if not 0.0 <= getattr(options, key) <= 1.0:
                raise ConfigurationError(f"strategy.{key} must be 0 to 1, got {getattr(options, key)}")
        if options.samples < 1:
            raise ConfigurationError(f"strategy.samples must be at least 1, got {options.samples}")
        self.memory = SubspaceMemory()

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        name = self.owners[task.name]
        if name is not None:
            if not self.memory.layers:
                self._protect_weights(policy)
            self._design(policy, name, data)

    @torch.no_grad()
    def _protect_weights(self, policy: Policy) -> None:
        weights = {layer: base_layer(policy, layer).weight.flatten(1).double() for layer in self.adapted_layers(policy)}
        self.memory.extend({layer: weight.T @ weight for layer, weight in weights.items()}, self.options.weight_energy)

    def _design(self, policy: Policy, name: str, data: WindowDataset) -> None:
        """Choose A of each layer, and freeze it."""
        adapter, options = factors(policy, name), self.options
        gradients = mean_weight_gradients(
            policy, data, list(adapter), options.samples, self.seed, "gradient", self.stage
        )
        for layer, factor in adapter.items():
            gradient = gradients[layer].double()
            directions = self.memory.free_directions(layer, gradient.T @ gradient, options.rank)
            with torch.no_grad():
                factor.down.copy_(directions.T.reshape(factor.down.shape))
            factor.down.requires_grad_(False)

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().end_task(task, policy, data)
        name = self.owners[task.name]
        if name is not None:
            self.fold_adapter(policy, name)
        else:
            self.memory = SubspaceMemory()
            self._protect_weights(policy)
        layers = self.adapted_layers(policy)
        moments = input_moments(policy, data, layers, self.options.samples, self.seed, "inputs", self.stage)
        self.memory.extend(moments, self.options.input_energy)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "memory": self.memory.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.memory.load_state_dict(state["memory"])
