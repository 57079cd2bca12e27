"""CL-MoE: a mixture of low-rank experts with two routers, merged with what it was before each task.

Huai et al., "CL-MoE: Enhancing Multimodal Large Language Model with Dual Momentum Mixture-of-Experts for Continual
Visual Question Answering", CVPR 2025 (arXiv 2503.00413). Published ports merge parameters whose names match none, or
record a task's statistics for a part of its data. After the paper's abstract and summaries of it: its full text was not
at hand, and which one-sided experts swap roles in the merge is our reading.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vla_cl.data import ObservationBatch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapter_mixture import spread_rows
from vla_cl.policies.adapters import adapter_parameters, factors
from vla_cl.seeding import torch_generator
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.choice import Choice
from vla_cl.strategies.experts import Gate, TokenRouters, token_mixture
from vla_cl.strategies.features import CHUNK
from vla_cl.strategies.moelora import EXPERTS, MoELoRA
from vla_cl.strategies.routing import Anchor, anchors_from, similarities, some_windows
from vla_cl.tasks import Task

LayerWeights = Mapping[str, Tensor]
"""Weights (E,) of the experts, by layer."""


def momentum(before: Tensor, now: Tensor, top: int, a: float) -> Tensor:
    """How much of each expert stays what it was: lambda of theta_t = lambda theta_{t-1} + (1 - lambda) phi_t.

    Experts that both tasks use share knowledge, of which a is kept; those that one of the two uses alone are specific,
    and the roles of old and new are swapped. What neither uses counts as shared: it hardly changed.

    Args:
        before: The previous task's weights of the experts (E,).
        now: The present task's.
        top: A task uses so many experts, those of the largest weights.
        a: 0 to 1.

    Returns:
        (E,).
    """

    def used(weights: Tensor) -> Tensor:
        chosen = weights.cpu().topk(top).indices
        return torch.zeros(len(weights), dtype=torch.bool).index_fill(0, chosen, True)

    return torch.where(used(before) ^ used(now), 1.0 - a, a)


@torch.no_grad()
def mean_weights(
    policy: Policy, routers: TokenRouters, data: WindowDataset, windows: Sequence[int], seed: int
) -> dict[str, Tensor]:
    """The task router's weights: in each layer the mean, over the tokens of a task's windows, of the token routers'."""
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = defaultdict(int)

    def gate(layer: str, tokens: Tensor) -> Tensor:
        weights: Tensor = routers(layer, tokens)
        flat = weights.reshape(-1, weights.shape[-1]).double()
        totals[layer] = totals.get(layer, 0) + flat.sum(dim=0)
        counts[layer] += len(flat)
        return weights

    device = next(policy.parameters()).device
    with token_mixture(policy, EXPERTS, gate):
        for start in range(0, len(windows), CHUNK):
            batch = data.batch(list(windows[start : start + CHUNK])).to(device)
            policy.loss(batch, torch_generator(seed, start))
    return {layer: (total / counts[layer]).float() for layer, total in totals.items()}


def dual_gate(policy: Policy, routers: TokenRouters, tasks: Sequence[LayerWeights | None], share: float) -> Gate:
    """share G^I(x) + (1 - share) G^T(t) for the task t of each row.

    Args:
        policy: Whose layers' inputs are weighed.
        routers: G^I, the instance router.
        tasks: G^T(t), of each row; None where a task has no experts: they do not act.
        share: Of the instance router, 0 to 1.
    """
    stacked: dict[str, tuple[Tensor, Tensor]] = {}

    def gate(layer: str, tokens: Tensor) -> Tensor:
        instance: Tensor = routers(layer, tokens)
        if layer not in stacked:
            none = torch.zeros(instance.shape[-1], device=instance.device)
            weights = [none if each is None else each.get(layer, none).to(instance.device) for each in tasks]
            acts = [[float(each is not None)] for each in tasks]
            stacked[layer] = torch.stack(weights), torch.tensor(acts, device=instance.device)
        moments = policy.features.history if layer.startswith("backbone.") else 1
        task, act = (
            spread.view(len(spread), *[1] * (tokens.ndim - 2), -1)
            for spread in (spread_rows(each, len(tokens), moments, layer) for each in stacked[layer])
        )
        mixed: Tensor = act * (share * instance + (1.0 - share) * task)
        return mixed

    return gate


@STRATEGIES.decorator("clmoe")
class CLMoE(MoELoRA):
    """Each adapted layer adds alpha / r sum_i [b G^I(x)_i + (1 - b) G^T(t)_i] E_i(x).

    The instance router G^I is MoELoRA's; the task router's G^T(t) is the mean of G^I over task t's data, kept for each
    task. Acting, t is the task whose features are nearest. After task t, the parameters phi_t of every expert are
    merged with what they were before: theta_t = lambda theta_{t-1} + (1 - lambda) phi_t (see `momentum`).

    Ours: an instance is a token, as in MoELoRA; G^T and the experts that a task uses are of each layer by itself;
    training uses G^I alone, since G^T is known after it; the features that tell tasks apart are a sentence encoder's
    and the base weights'; a task that trained the base acts without experts; routers are not merged.
    """

    @dataclass
    class Options(MoELoRA.Options):
        """Experts and merging.

        Args:
            share: b, of the instance router, 0 to 1; 0.5 in the paper.
            momentum: a, what is kept of shared experts, 0 to 1; 0.7 in the paper.
            top: Experts that a task uses in a layer; 2 in the paper.
            samples: Windows on which a task's features and weights are measured.
        """

        share: float = 0.5
        momentum: float = 0.7
        top: int = 2
        samples: int = 256

    options: Options
    acting_passes = 1.0

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        for key in ("share", "momentum"):
            if not 0.0 <= getattr(options, key) <= 1.0:
                raise ConfigurationError(f"strategy.{key} must be 0 to 1, got {getattr(options, key)}")
        if not 1 <= options.top <= options.experts:
            raise ConfigurationError(f"strategy.top must be 1 to strategy.experts={options.experts}, got {options.top}")
        if options.samples < 1:
            raise ConfigurationError(f"strategy.samples must be at least 1, got {options.samples}")
        self.anchors: dict[str, Anchor] = {}
        self.task_weights: dict[str, dict[str, Tensor]] = {}
        self.before: dict[str, Tensor] = {}
        self.latest: str | None = None

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        trained = bool(self.adapters)
        super().begin_task(task, policy, data)
        experts = adapter_parameters(policy, EXPERTS) if trained else {}
        self.before = {name: each.detach().clone() for name, each in experts.items()}

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        windows = some_windows(data, self.options.samples, self.seed, "samples", self.stage)
        self.anchors[task.name] = Anchor.of(policy, data, windows)
        if self.owners[task.name] is not None and self.routers is not None:
            weights = mean_weights(policy, self.routers, data, windows, self.seed)
            if self.before and self.latest is not None:
                self.merge(policy, self.task_weights[self.latest], weights)
            self.task_weights[task.name] = weights
            self.latest = task.name
        self.before = {}

    @torch.no_grad()
    def merge(self, policy: Policy, before: LayerWeights, now: LayerWeights) -> None:
        """theta_t = lambda theta_{t-1} + (1 - lambda) phi_t, for A and B of every expert in every layer."""
        for layer, low_rank in factors(policy, EXPERTS).items():
            if layer not in before or layer not in now:
                continue  # no loss reaches it, so that it has not changed
            kept = momentum(before[layer], now[layer], self.options.top, self.options.momentum)
            of_rank = kept.repeat_interleave(len(low_rank.down) // len(kept)).to(low_rank.down.device)
            for side, parameter, share in (("A", low_rank.down, of_rank[:, None]), ("B", low_rank.up, of_rank)):
                old = self.before[f"{layer}.lora_{side}.{EXPERTS}.weight"].to(parameter.device)
                parameter.copy_(share * old + (1.0 - share) * parameter)

    def acting_pass(self, observation: ObservationBatch) -> AbstractContextManager[Any]:
        if self.routers is None or not self.anchors:
            return self.mixed()
        tasks = list(self.anchors)
        rows = [self.task_weights.get(tasks[task]) for task in self.nearest(observation).tolist()]
        gate = dual_gate(self.policy, self.routers, rows, self.options.share)
        return token_mixture(self.policy, EXPERTS, gate)

    def nearest(self, observation: ObservationBatch) -> Tensor:
        """t (B,), as an index into the anchors."""
        return similarities(self.policy, observation, list(self.anchors.values())).argmax(dim=1)

    def choice(self, observation: ObservationBatch) -> Choice | None:
        if self.routers is None or not self.anchors:
            return None
        return Choice.among_tasks(list(self.anchors), self.nearest(observation))

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "anchors": {task: anchor.state_dict() for task, anchor in self.anchors.items()},
            "task_weights": self.task_weights,
            "before": self.before,
            "latest": self.latest,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.anchors = anchors_from(state["anchors"])
        self.task_weights = {task: dict(weights) for task, weights in state["task_weights"].items()}
        self.before = dict(state["before"])
        self.latest = state["latest"]
