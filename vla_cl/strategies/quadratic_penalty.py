"""What strategies share that hold each weight to where earlier tasks left it, the more the more they need it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vla_cl.data import Batch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy, PolicyOutput
from vla_cl.seeding import numpy_generator
from vla_cl.strategies.base import Strategy
from vla_cl.strategies.weights import stable_name, trained_weights


class QuadraticPenalty(Strategy):
    """Base of EWC, SI, MAS and L2: `loss + strength * sum_p importance_p (theta_p - anchor_p)^2`.

    They differ in what they find important: a subclass calls `consolidate` in `end_task`. A weight has neither
    importance nor anchor before the first boundary that it was trained up to, so an adapter that grows is free in its
    first task; what is frozen is not held; and what is gone from the policy is forgotten, so that another adapter of
    its name is not held to it.

    Attributes:
        importance: By weight, float32, of the weight's shape, or one number () for all of it.
        anchor: Where each weight is held to.
        parameters: The weights that are trained now.
    """

    @dataclass
    class Options:
        """Penalty.

        Args:
            strength: lambda, at least 0; 0 is sequential fine-tuning.
        """

        strength: float = 1.0

    def __init__(self, options: Any, seed: int) -> None:
        super().__init__(options, seed)
        if not options.strength >= 0:
            raise ConfigurationError(f"strategy.strength must be at least 0, got {options.strength}")
        self.importance: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}
        self.parameters: dict[str, nn.Parameter] = {}

    def bind(self, policy: Policy) -> None:
        """Follow the policy's weights, and keep importances on its device."""
        super().bind(policy)
        self.parameters = trained_weights(policy)
        there = {stable_name(name): each for name, each in policy.named_parameters()}
        kept = [name for name in self.importance if name in there]
        self.importance = {name: self.importance[name].to(there[name].device) for name in kept}
        self.anchor = {name: self.anchor[name].to(there[name].device) for name in kept}

    def loss(self, batch: Batch, output: PolicyOutput) -> Tensor | float:
        held = [name for name in self.importance if name in self.parameters]
        if not held or not self.options.strength:
            return 0.0
        weights = [self.parameters[name] for name in held]
        total: Tensor = SquaredDistance.apply(  # type: ignore[no-untyped-call]
            [self.anchor[name] for name in held], [self.importance[name] for name in held], *weights
        )
        penalty: Tensor = self.options.strength * total
        return penalty

    def penalty_gradient(self, name: str) -> Tensor | float:
        """What the penalty alone adds to a weight's gradient."""
        if name not in self.importance or name not in self.parameters or not self.options.strength:
            return 0.0
        distance = self.parameters[name].detach() - self.anchor[name]
        gradient: Tensor = 2 * self.options.strength * self.importance[name] * distance
        return gradient

    def consolidate(self, importance: Mapping[str, Tensor]) -> None:
        """Give weights these importances, and hold them to where they are now."""
        for name, value in importance.items():
            self.importance[name] = value
            self.anchor[name] = self.parameters[name].detach().clone()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "importance": self.importance, "anchor": self.anchor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.importance = dict(state["importance"])
        self.anchor = dict(state["anchor"])
        if hasattr(self, "policy"):  # inside a task, nobody binds once more
            self.bind(self.policy)


class SquaredDistance(torch.autograd.Function):
    """`sum_i importance_i (weight_i - anchor_i)^2` () of many weights; apply(anchors, importances, *weights).

    Written out, with one operation for all weights where there is one: a step should cost hardly more than without a
    penalty, and many small operations are what a GPU waits for.
    """

    @staticmethod
    def forward(ctx: Any, anchors: list[Tensor], importances: list[Tensor], *weights: Tensor) -> Tensor:
        distances = torch._foreach_sub(weights, anchors)
        ctx.weighed = torch._foreach_mul(distances, importances)
        products = torch._foreach_mul(ctx.weighed, distances)
        return torch.stack([each.sum() for each in products]).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        return (None, None, *torch._foreach_mul(ctx.weighed, 2 * gradient))


def mean_of_gradients(
    of: Callable[[Tensor], Tensor], outputs: Iterable[Callable[[], Tensor]], parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The mean over samples of a function of each sample's own gradient.

    Args:
        of: The function, elementwise: its square for the Fisher information, its magnitude for MAS.
        outputs: One function a sample, which returns the scalar to differentiate.
        parameters: What to differentiate by.

    Returns:
        A float32 tensor for each parameter, of its shape; 0 where nothing depends on it.
    """
    total = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in parameters.items()}
    count = 0
    for output in outputs:
        gradients = torch.autograd.grad(output(), list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += of(gradient.detach().float())
        count += 1
    return {name: value / max(count, 1) for name, value in total.items()}


def sampled_windows(data: WindowDataset, samples: int, seed: int, name: str, stage: int) -> Iterator[tuple[int, Batch]]:
    """Windows of a task one at a time, drawn without replacement and in order: the index, and a batch of that one.

    Args:
        data: The task's windows.
        samples: How many, all where there are fewer.
        seed: Of the run.
        name: What they are for.
        stage: Of the task.
    """
    chosen = numpy_generator(seed, name, stage).choice(len(data), size=min(samples, len(data)), replace=False)
    for index in sorted(int(each) for each in chosen):
        yield index, data.batch([index])
