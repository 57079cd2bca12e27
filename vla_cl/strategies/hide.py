"""HiDe: adapters of all tasks fused where tasks look alike, and chosen by similarity where they differ.

Guo et al., "HiDe-LLaVA: Hierarchical Decoupling for Continual Instruction Tuning of Multimodal Large Language Model",
ACL 2025 (arXiv 2503.12941).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vla_cl.data import ObservationBatch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import Route, mixture
from vla_cl.policies.representation import linear_cka, recorded
from vla_cl.seeding import torch_generator
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.choice import Choice
from vla_cl.strategies.features import CHUNK
from vla_cl.strategies.low_rank import LowRankStrategy
from vla_cl.strategies.routing import Anchor, anchors_from, similarities, some_windows
from vla_cl.tasks import Task


@torch.no_grad()
def layer_features(
    policy: Policy, route: Route, layers: Sequence[str], data: WindowDataset, windows: Sequence[int], seed: int
) -> dict[str, Tensor]:
    """What layers put out for some windows under a route: by layer (n, D), the mean over tokens in each row that it
    sees. The same rows at the same noise whatever the route.
    """
    device = next(policy.parameters()).device
    with recorded(policy, layers) as found, mixture(policy, route):
        for start in range(0, len(windows), CHUNK):
            batch = data.batch(list(windows[start : start + CHUNK])).to(device)
            policy.loss(batch, torch_generator(seed, start))
    return {layer: torch.cat(parts) for layer, parts in found.items() if parts}


@STRATEGIES.decorator("hide")
class HiDe(LowRankStrategy):
    """A LoRA a task. Acting, a layer that is general adds fusion sum_i B_i A_i x of all tasks; one that is specific
    adds sum_i w_i B_i A_i x with w = softmax(s / temperature), s_i = (cos(text, anchor_i) + cos(seen, anchor_i)) / 2.

    Anchors are a task's mean features. Products are summed, not factors. The paper's sum is of small changes to a
    pretrained model; adapters of a policy that was trained from scratch on one task are large, and their sum acts
    like none of them: so the mean is the default. The paper finds by CKA that the top layer alone is specific, and
    fixes that. Ours: the split is measured here, layer by layer and as tasks come: the CKA of what two tasks'
    adapters make of the same windows of the later task, a mean over all pairs; layers below `threshold` are
    specific, at least the lowest one. Features are a sentence encoder's and the base weights'; a task that trained
    the base takes its share of the weights without adding anything.
    """

    @dataclass
    class Options(LowRankStrategy.Options):
        """Fusion and expansion.

        Args:
            threshold: Layers whose CKA between tasks is lower are specific; 0 to 1. 0 leaves the lowest one, 1 takes
                all.
            fusion: Weight of every task's adapter in general layers, positive; 1 in the paper's code, null takes
                their mean.
            temperature: Of the softmax, positive; 0.1 in the paper.
            samples: Windows on which anchors and CKA are measured.
        """

        threshold: float = 0.9
        fusion: float | None = None
        temperature: float = 0.1
        samples: int = 128

    options: Options
    acting_passes = 1.0

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if not 0.0 <= options.threshold <= 1.0:
            raise ConfigurationError(f"strategy.threshold must be 0 to 1, got {options.threshold}")
        for key in ("fusion", "temperature"):
            if getattr(options, key) is not None and not getattr(options, key) > 0.0:
                raise ConfigurationError(f"strategy.{key} must be positive, got {getattr(options, key)}")
        if options.samples < 2:
            raise ConfigurationError(f"strategy.samples must be at least 2, got {options.samples}")
        self.anchors: dict[str, Anchor] = {}
        self.alignment: dict[str, float] = {}
        self.pairs = 0

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().end_task(task, policy, data)
        windows = some_windows(data, self.options.samples, self.seed, "samples", self.stage)
        self.anchors[task.name] = Anchor.of(policy, data, windows)
        own = self.owners[task.name]
        if own is not None:
            self.compare(policy, own, data, windows)

    def compare(self, policy: Policy, own: str, data: WindowDataset, windows: Sequence[int]) -> None:
        """Take a new adapter's pairs with the earlier ones, or the base, into the mean CKA of each layer."""
        layers = policy.adapters[own].modules
        earlier = {owner for task, owner in self.owners.items() if task in self.anchors and owner != own}
        new = layer_features(policy, {own: 1.0}, layers, data, windows, self.seed)
        for other in sorted(earlier, key=str):
            old = layer_features(policy, {} if other is None else {other: 1.0}, layers, data, windows, self.seed)
            self.pairs += 1
            for layer, features in new.items():
                mean = self.alignment.get(layer, 0.0)
                self.alignment[layer] = mean + (linear_cka(features, old[layer]) - mean) / self.pairs

    @property
    def specific(self) -> list[str]:
        """The layers in which tasks' adapters are weighed."""
        if not self.alignment:
            return []
        lowest = min(self.alignment, key=self.alignment.__getitem__)
        return [layer for layer, value in self.alignment.items() if value < self.options.threshold or layer == lowest]

    def route(self, observation: ObservationBatch) -> Route | None:
        if not self.anchors or not self.adapters:
            return None
        weights = self.weights(observation)
        specific = set(self.specific)
        adapted = [name for name in map(self.owners.get, self.anchors) if name is not None]
        fusion = 1.0 / max(1, len(adapted)) if self.options.fusion is None else self.options.fusion
        route: dict[str, dict[str, float | Tensor]] = {}
        for column, task in enumerate(self.anchors):
            name = self.owners[task]
            if name is not None:
                route[name] = {
                    layer: weights[:, column] if layer in specific else fusion
                    for layer in self.policy.adapters[name].modules
                }
        return route

    def weights(self, observation: ObservationBatch) -> Tensor:
        """w (B, T)."""
        similar = similarities(self.policy, observation, list(self.anchors.values()))
        return (similar / self.options.temperature).softmax(dim=1)

    def choice(self, observation: ObservationBatch) -> Choice | None:
        if not self.anchors or not self.adapters:
            return None
        return Choice.among_tasks(list(self.anchors), self.weights(observation))

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "anchors": {task: anchor.state_dict() for task, anchor in self.anchors.items()},
            "alignment": dict(self.alignment),
            "pairs": self.pairs,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.anchors = anchors_from(state["anchors"])
        self.alignment = {str(layer): float(value) for layer, value in state["alignment"].items()}
        self.pairs = int(state["pairs"])
