"""SEFE: leave alone the weights that earlier tasks changed most, and learn every task in several phrasings.

Chen et al., "SEFE: Superficial and Essential Forgetting Eliminator for Multimodal Continual Instruction Tuning",
ICML 2025 (arXiv 2505.02486): RegLoRA against essential forgetting, answer style diversification against superficial.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vla_cl.data import Batch, ObservationBatch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy, PolicyOutput
from vla_cl.policies.adapters import LowRank, delta_weights, factors
from vla_cl.seeding import numpy_generator
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.layer_statistics import base_layer
from vla_cl.strategies.low_rank import LowRankStrategy
from vla_cl.tasks import Task


def key_elements(change: Tensor, share: float) -> Tensor:
    """Indices (n,), int32, ascending, into a flattened weight: of the share of its elements that changed most."""
    count = int(share * change.numel())
    return change.flatten().abs().topk(count).indices.sort().values.int()


class KeyChange:
    """sum_layers mean_(e in K) |alpha / rank (B A)_e| of a task's factors.

    What stays the same during the task is worked out once.

    Args:
        factors: A and B of each layer.
        elements: K of each layer, indices (n,) into its flattened weight; layers without any do not count.
    """

    def __init__(self, factors: Mapping[str, LowRank], elements: Mapping[str, Tensor]) -> None:
        self.parts = [
            (factor, elements[layer].long()) for layer, factor in factors.items() if len(elements.get(layer, ()))
        ]
        shares = [torch.full(indices.shape, abs(factor.scale) / len(indices)) for factor, indices in self.parts]
        self.shares = torch.cat(shares).to(self.parts[0][1].device) if shares else None

    def __call__(self) -> Tensor | float:
        """The sum, 0 without elements."""
        if self.shares is None:
            return 0.0
        changes = [(factor.up.flatten(1) @ factor.down.flatten(1)).flatten()[at] for factor, at in self.parts]
        return (torch.cat(changes).abs() * self.shares).sum()


@STRATEGIES.decorator("sefe")
class SEFE(LowRankStrategy):
    """`loss + strength * sum_layers mean_(e in K) |alpha / rank (B A)_e|`; after a task, K of each layer is united with
    the `share` of the elements with the largest |B A|, and `W <- W + alpha / rank B A`.

    Answer style diversification rewrites part of the data into other question and answer formats, so that a task's
    format is not overwritten with its knowledge. Ours, for robots, whose answers are actions: some instructions of each
    batch are replaced by the task's training paraphrases. Where a backbone's features are cached with the instruction
    in them, that changes nothing. Ours, too: what a first task that trains the base weights adds to K is where they
    changed most.
    """

    @dataclass
    class Options(LowRankStrategy.Options):
        """Those of every low-rank strategy, and those of the two parts.

        Args:
            strength: lambda, at least 0.
            share: Of a layer's elements that a task adds to K, 0 to 1. The paper takes 0.02.
            rewritten: Share of each batch whose instructions are replaced, 0 to 1.
        """

        strength: float = 1.0
        share: float = 0.02
        rewritten: float = 0.2

    options: Options

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if options.strength < 0:
            raise ConfigurationError(f"strategy.strength must be at least 0, got {options.strength}")
        for key in ("share", "rewritten"):
            if not 0.0 <= getattr(options, key) <= 1.0:
                raise ConfigurationError(f"strategy.{key} must be 0 to 1, got {getattr(options, key)}")
        self.elements: dict[str, Tensor] = {}
        self.paraphrases: dict[str, list[str]] = {}
        self.draws = 0
        self.start: dict[str, Tensor] = {}
        self.factors: dict[str, LowRank] = {}
        self.key_change = KeyChange({}, {})

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        for text in (*data.instructions, *task.instructions("paraphrased")):
            self.paraphrases[text] = list(task.paraphrases)
        name = self.owners[task.name]
        if name is None:
            layers = self.adapted_layers(policy)
            self.start = {layer: base_layer(policy, layer).weight.detach().clone() for layer in layers}
            self.factors = {}
        else:
            self.factors = factors(policy, name)
        self._place(policy)

    def batch(self, batch: Batch) -> Batch:
        count = round(self.options.rewritten * len(batch))
        if not count:
            return batch
        generator = numpy_generator(self.seed, "rewrite", self.draws)
        self.draws += 1
        texts = list(batch.observation.instruction)
        for row in generator.permutation(len(batch))[:count]:
            others = self.paraphrases.get(texts[row])
            if others:
                texts[row] = others[int(generator.integers(len(others)))]
        return replace(batch, observation=_told(batch.observation, tuple(texts)))

    def loss(self, batch: Batch, output: PolicyOutput) -> Tensor | float:
        return self.options.strength * self.key_change()

    @torch.no_grad()
    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().end_task(task, policy, data)
        name = self.owners[task.name]
        if name is None:
            changes = {layer: base_layer(policy, layer).weight - before for layer, before in self.start.items()}
        else:
            changes = delta_weights(policy, name)
        for layer, change in changes.items():
            earlier, added = self.elements.get(layer), key_elements(change, self.options.share)
            self.elements[layer] = added if earlier is None else torch.unique(torch.cat([earlier, added]))
        self.start, self.factors, self.key_change = {}, {}, KeyChange({}, {})
        if name is not None:
            self.fold_adapter(policy, name)

    def _place(self, policy: Policy) -> None:
        device = next(policy.parameters()).device
        self.elements = {layer: elements.to(device) for layer, elements in self.elements.items()}
        self.key_change = KeyChange(self.factors, self.elements)

    def state_dict(self) -> dict[str, Any]:
        own = {"elements": self.elements, "paraphrases": self.paraphrases, "draws": self.draws}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.elements = dict(state["elements"])
        self.paraphrases = {str(text): list(others) for text, others in state["paraphrases"].items()}
        self.draws = int(state["draws"])
        if self.factors:  # inside a task
            self._place(self.policy)


def _told(observation: ObservationBatch, texts: tuple[str, ...]) -> ObservationBatch:
    """An observation, its past included, with other instructions."""
    past = tuple(_told(moment, texts) for moment in observation.past)
    return replace(observation, instruction=texts, past=past)
