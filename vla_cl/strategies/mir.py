"""Maximally interfered retrieval: replay what the coming step would damage most.

Aljundi et al., "Online Continual Learning with Maximally Interfered Retrieval", NeurIPS 2019 (arXiv 1908.04742).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vla_cl.data import Batch, ReplayMemory, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import adapter_parameters
from vla_cl.seeding import torch_generator
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.replay import Replay
from vla_cl.tasks import Task


@contextmanager
def virtual_step(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor], size: float) -> Iterator[None]:
    """Have parameters at theta - size * gradient, and afterwards exactly where they were, whatever happens."""
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            torch._foreach_sub_(list(parameters), list(gradients), alpha=size)
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(parameters), before)


@STRATEGIES.decorator("mir")
class MIR(Replay):
    """Experience replay of those windows whose loss a virtual step raises most.

    Of |C| candidates c from the memory, those with the largest

        s(c) = L(theta - eta grad L(theta, fresh rows), c) - L(theta, c)                          (equation 1, MI-1)

    are replayed, both losses at the same noise. Amortised, which is ours: candidates are ranked at a task's first step
    and then every `refresh` steps, and in between rows are drawn from the best `top` of the last ranking. With
    `refresh=1` and so many candidates that their best `top` fill the replayed rows, this is the paper's algorithm.
    """

    @dataclass
    class Options(Replay.Options):
        """Those of `Replay`, and the retrieval.

        Args:
            candidates: |C|, windows that are ranked, at least 1. The paper takes 50 for 10 that it replays.
            top: Share of the candidates from which rows are drawn, more than 0, at most 1.
            refresh: Steps between rankings, at least 1 (the paper ranks at each).
            step_size: eta of the virtual step, more than 0.
            parameters: What takes the virtual step: "trainable", or "adapters" alone, which is all of it where the base
                is frozen, and saves a copy of the other weights where it is not.
        """

        candidates: int = 128
        top: float = 0.5
        refresh: int = 50
        step_size: float = 0.01
        parameters: str = "trainable"

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if options.ratio is None:
            raise ConfigurationError("strategy.ratio must be a number for what is retrieved, got None")
        for name in ("candidates", "refresh"):
            if getattr(options, name) < 1:
                raise ConfigurationError(f"strategy.{name} must be at least 1, got {getattr(options, name)}")
        if not 0.0 < options.top <= 1.0:
            raise ConfigurationError(f"strategy.top must be more than 0, at most 1, got {options.top}")
        if options.step_size <= 0:
            raise ConfigurationError(f"strategy.step_size must be more than 0, got {options.step_size}")
        if options.parameters not in ("trainable", "adapters"):
            raise ConfigurationError(f"strategy.parameters must be trainable or adapters, got {options.parameters!r}")
        self.ranked = ReplayMemory()
        self.age = 0
        self.rows = 0

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        self.ranked = ReplayMemory()

    def retrieve(self, fresh: Batch, n: int, generator: np.random.Generator) -> Batch:
        self.rows = len(fresh) + n
        if not len(self.ranked) or self.age >= self.options.refresh:
            self.ranked, self.age = self._rank(fresh, n, generator), 0
        self.age += 1
        return self.ranked.read(generator.choice(len(self.ranked), n, replace=n > len(self.ranked)))

    def _rank(self, fresh: Batch, n: int, generator: np.random.Generator) -> ReplayMemory:
        """The most interfered of the candidates."""
        size = min(self.options.candidates, len(self.memory))
        candidates = self.memory.read(generator.choice(len(self.memory), size, replace=False))
        rises = self.interference(fresh if len(fresh) else candidates, candidates)
        best = np.argsort(-rises.cpu().numpy(), kind="stable")[: max(1, round(self.options.top * size))]
        ranked = ReplayMemory()
        ranked.take(candidates[best.tolist()])
        return ranked

    def interference(self, fresh: Batch, candidates: Batch) -> Tensor:
        """s(c) of each candidate (|C|,)."""
        policy, device = self.policy, next(self.policy.parameters()).device
        noises = (torch_generator(self.seed, "mir", self.draws), torch_generator(self.seed, "mir fresh", self.draws))
        moved = self._moved()
        with self.precision():
            loss = policy.loss(fresh.to(device), noises[1]).mean()
        gradients = torch.autograd.grad(loss, moved, allow_unused=True, materialize_grads=True)
        drawn, noise = policy.draw(candidates.to(device), noises[0])

        def losses() -> Tensor:
            parts = [slice(start, start + self.rows) for start in range(0, len(drawn), self.rows)]
            with self.precision():
                return torch.cat([policy.imitate(drawn[part], noise[part]).loss.float() for part in parts])

        with torch.no_grad():
            before = losses()
            with virtual_step(moved, gradients, self.options.step_size):
                return losses() - before

    def _moved(self) -> list[nn.Parameter]:
        """What takes the virtual step."""
        trainable = {name: each for name, each in self.policy.named_parameters() if each.requires_grad}
        if self.options.parameters == "adapters":
            of_adapters = {key for name in self.policy.adapters for key in adapter_parameters(self.policy, name)}
            trainable = {name: each for name, each in trainable.items() if name in of_adapters}
            if not trainable:
                raise ConfigurationError(
                    "strategy.parameters=adapters needs adapters that are trained, and this policy has none; "
                    "use strategy.parameters=trainable"
                )
        return list(trainable.values())

    @property
    def extra_passes(self) -> float:  # type: ignore[override]
        """A ranking's: the fresh rows once, the candidates twice (forward only), spread over the steps until the next;
        0 before there was one.
        """
        return (1 + 2 * self.options.candidates / self.rows) / self.options.refresh if self.rows else 0.0

    def state_dict(self) -> dict[str, Any]:
        own = {"ranked": self.ranked.state_dict(), "age": self.age, "rows": self.rows}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.ranked = ReplayMemory()
        self.ranked.load_state_dict(state["ranked"])
        self.age = int(state["age"])
        self.rows = int(state["rows"])
