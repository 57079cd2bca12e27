"""CLARE: layers that grow an adapter where a task looks new to them, and route by reconstruction when acting.

Römer et al., "CLARE: Continual Learning for Vision-Language-Action Models via Autonomous Adapter Routing and
Expansion", arXiv 2601.09512.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vla_cl.data import Batch, ObservationBatch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.seeding import torch_generator
from vla_cl.strategies.base import STRATEGIES, Needs, Strategy
from vla_cl.strategies.choice import Choice
from vla_cl.strategies.expandable import (
    BASE,
    Bottleneck,
    Discriminator,
    ExpandableLayer,
    LayerCall,
    added_to,
    feed_forward_layers,
    feed_forward_names,
)
from vla_cl.strategies.features import CHUNK
from vla_cl.strategies.own_modules import seeded_module
from vla_cl.strategies.routing import some_windows
from vla_cl.tasks import Task

BATCH = 256
"""Tokens in a step of the discriminators' training."""
TOKENS = 16
"""Of a row, on average and at most, that they are trained on."""


def is_novel(z_scores: Sequence[float], gamma: float) -> bool:
    """Whether a layer is expanded: its input looks like that of no task before, all z > gamma."""
    return all(z > gamma for z in z_scores)


@STRATEGIES.decorator("clare")
class CLARE(Strategy):
    """Chosen feed-forward layers add A_i(x) = W_up relu(W_down x) to what they put out.

    Before a task, layer l grows an adapter if, for all discriminators k of it, z_k = (e_k - mean_k) / deviation_k >
    gamma with e_k the mean reconstruction error of the task's data; else it reuses the adapter of the smallest z. If no
    layer would grow, the first one does. The task trains the new adapters alone, then, with these in place, one new
    discriminator (an autoencoder) for each layer. Acting, each layer applies, row by row, the adapter that belongs to
    the discriminator of the least reconstruction error. What was trained is frozen.

    Ours: tokens are normalised before they are reconstructed; the deviation is that of single rows, and gamma's default
    is for that; the head's feed-forward layers are chosen, too; with `first_task=full` the first task trains all
    weights and its discriminators belong to the base. A task is judged by its data, also where its name is known.
    """

    needs: ClassVar[Needs] = Needs(lora=True)

    @dataclass
    class Options:
        """Layers, their adapters and discriminators.

        Args:
            gamma: z above which a layer is expanded.
            width: Of the adapters' bottleneck.
            hidden: Of the autoencoders' code.
            layers: "auto", or a regular expression that matches whole names of modules inside the policy.
            head: Whether "auto" includes the head's feed-forward layers.
            discriminator_steps: Of training the discriminators, each on 256 tokens.
            discriminator_rate: Their learning rate, positive.
            samples: Windows on which discriminators are trained and errors measured.
            first_task: "full": the first task trains all weights of the policy, which are then frozen. "adapter": the
                weights as they are count as pretrained, as in the paper.
        """

        gamma: float = 2.5
        width: int = 32
        hidden: int = 16
        layers: str = "auto"
        head: bool = True
        discriminator_steps: int = 200
        discriminator_rate: float = 3e-3
        samples: int = 256
        first_task: str = "full"

    options: Options
    acting_passes = 0.0

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        for key, least in (("width", 1), ("hidden", 1), ("discriminator_steps", 0), ("samples", 2)):
            if getattr(options, key) < least:
                raise ConfigurationError(f"strategy.{key} must be at least {least}, got {getattr(options, key)}")
        if not options.discriminator_rate > 0.0:
            raise ConfigurationError(f"strategy.discriminator_rate must be positive, got {options.discriminator_rate}")
        if options.first_task not in ("full", "adapter"):
            raise ConfigurationError(f"strategy.first_task must be full or adapter, got {options.first_task!r}")
        try:
            re.compile(options.layers)
        except re.error as error:
            raise ConfigurationError(
                f"strategy.layers must be auto or a regular expression, got {options.layers!r} ({error})"
            ) from error
        self.layers: dict[str, ExpandableLayer] = {}
        self.present: dict[str, int] = {}
        self.novel: list[str] = []
        self.tasks: list[str] = []

    def check(self, policy: Policy) -> None:
        feed_forward_names(policy, self.options.layers, self.options.head)

    def bind(self, policy: Policy) -> None:
        super().bind(policy)
        for layer in self.layers.values():
            layer.to(next(policy.parameters()).device)

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        first = not self.layers
        if first:
            probe = data.batch([0]).to(next(policy.parameters()).device)
            self.layers = feed_forward_layers(policy, self.options.layers, self.options.head, probe)
        if first and self.options.first_task == "full":
            self.present, self.novel = dict.fromkeys(self.layers, BASE), []
            return
        policy.requires_grad_(False)
        self.expand(policy, data)
        self.bind(policy)

    def expand(self, policy: Policy, data: WindowDataset) -> None:
        """Decide for each layer which adapter the task has: a new one, or an old one."""
        windows = some_windows(data, self.options.samples, self.seed, "novelty", self.stage)
        known = any(layer.discriminators for layer in self.layers.values())
        scores = self.z_scores(policy, data, windows) if known else {name: [] for name in self.layers}
        self.novel = [name for name, each in scores.items() if is_novel(each, self.options.gamma)]
        grown = self.novel or [next(iter(self.layers))]
        for name, layer in self.layers.items():
            if name in grown:
                layer.adapters.append(
                    seeded_module(
                        lambda layer=layer: Bottleneck(layer.inputs, self.options.width, layer.outputs),  # type: ignore[misc]
                        *(self.seed, "adapter", name, self.stage),
                    )
                )
                self.present[name] = len(layer.adapters) - 1
            else:
                nearest = min(range(len(scores[name])), key=scores[name].__getitem__)
                self.present[name] = int(layer.discriminators[nearest].adapter)  # type: ignore[arg-type]

    def z_scores(self, policy: Policy, data: WindowDataset, windows: Sequence[int]) -> dict[str, list[float]]:
        """Of each layer, those of its discriminators for some windows, as the policy acts now."""
        errors: dict[str, list[list[Tensor]]] = defaultdict(list)

        def call(name: str, tokens: Tensor) -> Tensor | None:
            layer = self.layers[name]
            errors[name].append([each.errors(tokens) for each in layer.discriminators])  # type: ignore[operator]
            return layer.routed(tokens) if layer.adapters else None

        self._look(policy, data, windows, call)
        return {
            name: [
                each.z_score(torch.cat(parts))  # type: ignore[operator]
                for each, parts in zip(layer.discriminators, zip(*errors[name], strict=True), strict=True)
            ]
            for name, layer in self.layers.items()
        }

    def training_pass(self, batch: Batch) -> AbstractContextManager[Any]:
        adapted = [name for name, adapter in self.present.items() if adapter != BASE]
        return added_to(self.policy, dict.fromkeys(adapted), self.add_present)

    def add_present(self, name: str, tokens: Tensor) -> Tensor | None:
        """What the present task's adapter adds in a layer."""
        adapter = self.present[name]
        return None if adapter == BASE else self.layers[name].adapters[adapter](tokens)

    def acting_pass(self, observation: ObservationBatch) -> AbstractContextManager[Any]:
        grown = [name for name, layer in self.layers.items() if layer.adapters and layer.discriminators]
        if not grown:
            return nullcontext()
        return added_to(self.policy, dict.fromkeys(grown), lambda name, tokens: self.layers[name].routed(tokens))

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        """Freeze the adapters, and learn to tell the task's data."""
        new: dict[str, Discriminator] = {}
        for name, layer in self.layers.items():
            layer.requires_grad_(False)
            new[name] = seeded_module(
                lambda layer=layer, name=name: Discriminator(layer.inputs, self.options.hidden, self.present[name]),  # type: ignore[misc]
                *(self.seed, "discriminator", name, self.stage),
            ).to(next(policy.parameters()).device)
        self.train_discriminators(policy, data, new)
        self.measure(policy, data, new)
        for name, layer in self.layers.items():
            layer.discriminators.append(new[name].requires_grad_(False))
        self.tasks.append(task.name)

    @torch.no_grad()
    def choice(self, observation: ObservationBatch) -> Choice | None:
        """Of each task, the share of layers in which its discriminator errs least; of two tasks with one adapter in a
        layer, each counts there for the other.
        """
        votes: dict[str, list[Tensor]] = defaultdict(list)

        def call(name: str, tokens: Tensor) -> Tensor | None:
            layer = self.layers[name]
            adapters = torch.stack([each.adapter for each in layer.discriminators])  # type: ignore[misc]
            same = (layer.nearest(tokens)[:, None] == adapters).float()
            moments = self.policy.features.history if name.startswith("backbone.") else 1
            votes[name].append(same.view(moments, len(observation), -1, len(adapters)).mean(dim=(0, 2)))
            return layer.routed(tokens) if layer.adapters else None

        grown = [name for name, layer in self.layers.items() if layer.adapters and layer.discriminators]
        if not grown:
            return None
        with added_to(self.policy, dict.fromkeys(grown), call):
            self.policy.act(observation, [0] * len(observation))
        shares = [torch.stack(calls).mean(dim=0) for calls in votes.values()]
        return Choice.among_tasks(self.tasks, torch.stack(shares).mean(dim=0))

    def train_discriminators(self, policy: Policy, data: WindowDataset, new: Mapping[str, Discriminator]) -> None:
        """Fit each to some tokens of what its layer is given when the present task's adapters act."""
        seen: dict[str, list[Tensor]] = defaultdict(list)
        generator = torch_generator(self.seed, "tokens", self.stage)

        def call(name: str, tokens: Tensor) -> Tensor | None:
            flat = tokens.detach().flatten(0, -2)
            seen[name].append(flat[torch.randperm(len(flat), generator=generator)[: TOKENS * len(tokens)]])
            return self.add_present(name, tokens)

        self._look(policy, data, some_windows(data, self.options.samples, self.seed, "seen", self.stage), call)
        optimiser = torch.optim.AdamW(
            [each for discriminator in new.values() for each in discriminator.parameters()],
            lr=self.options.discriminator_rate,
            fused=True,
        )
        tokens = {name: torch.cat(parts) for name, parts in seen.items()}
        for _ in range(self.options.discriminator_steps):
            optimiser.zero_grad()
            for name, every in tokens.items():
                rows = torch.randint(len(every), (BATCH,), generator=generator)
                new[name].errors(every[rows]).mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    def measure(self, policy: Policy, data: WindowDataset, new: Mapping[str, Discriminator]) -> None:
        """Record mean and deviation of the task's own errors."""
        errors: dict[str, list[Tensor]] = defaultdict(list)

        def call(name: str, tokens: Tensor) -> Tensor | None:
            errors[name].append(new[name].errors(tokens))
            return self.add_present(name, tokens)

        self._look(policy, data, some_windows(data, self.options.samples, self.seed, "errors", self.stage), call)
        for name, parts in errors.items():
            every = torch.cat(parts)
            new[name].mean.copy_(every.mean())
            new[name].deviation.copy_(every.std())

    @torch.no_grad()
    def _look(self, policy: Policy, data: WindowDataset, windows: Sequence[int], call: LayerCall) -> None:
        """Show `call` what every layer is given when the policy's loss on some windows is computed."""
        device = next(policy.parameters()).device
        with added_to(policy, self.layers, call):
            for start in range(0, len(windows), CHUNK):
                batch = data.batch(windows[start : start + CHUNK]).to(device)
                policy.loss(batch, torch_generator(self.seed, "look", self.stage, start))

    def modules(self) -> Mapping[str, nn.Module]:
        return {name.replace(".", ":"): layer for name, layer in self.layers.items()}

    def state_dict(self) -> dict[str, Any]:
        layers = {name: {"sizes": layer.sizes(), "weights": layer.state_dict()} for name, layer in self.layers.items()}
        own = {"layers": layers, "present": dict(self.present), "novel": list(self.novel), "tasks": list(self.tasks)}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.present = {str(name): int(adapter) for name, adapter in state["present"].items()}
        self.novel = [str(name) for name in state["novel"]]
        self.tasks = [str(name) for name in state["tasks"]]
        if {name: layer.sizes() for name, layer in self.layers.items()} != {
            name: each["sizes"] for name, each in state["layers"].items()
        }:
            self.layers = {name: ExpandableLayer.of_sizes(each["sizes"]) for name, each in state["layers"].items()}
        for name, layer in self.layers.items():
            layer.load_state_dict(state["layers"][name]["weights"])
