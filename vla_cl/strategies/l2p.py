"""Learning to Prompt: one pool of prompts for all tasks, from which each observation takes those that fit it best.

Wang et al., "Learning to Prompt for Continual Learning", CVPR 2022 (arXiv 2112.08654), section 4.2, eq. 3 to 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vla_cl.data import ObservationBatch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.soft_prompts import SoftPrompts
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.choice import Choice
from vla_cl.strategies.prompting import PromptStrategy, Query, cosines
from vla_cl.tasks import Task


@STRATEGIES.decorator("l2p")
class L2P(PromptStrategy):
    """Prompts P_1 ... P_M of L tokens, with keys k_m; with gamma(q, k) = 1 - cos(q, k), an observation x takes the N
    nearest to its query, `K_x = argmin sum_(i in K_x) gamma(q(x), k_i)` (eq. 3), whose tokens join its own, and the
    keys are pulled to what took them (eq. 5):

        L + lambda sum_(i in K_x) gamma(q(x), k_i)

    To spread tasks over the pool, training can weigh each distance by how often earlier tasks took the prompt (eq. 4;
    here a share of all that they took).

    Ours: the query is the instruction's and the observation's features, joined; the head sees the policy's own tokens,
    where the paper's classifier sees the mean of the prompts' outputs; prompts that no row of a batch took are left
    alone, by weight decay and by the optimiser's momentum, too, since earlier tasks may need them.

    Without a first task that trains the whole policy it needs no boundaries.
    """

    whole_batches: ClassVar[str] = "it counts which prompts the rows of a batch take"

    @dataclass
    class Options(PromptStrategy.Options):
        """Those of every prompt strategy, and the pool's.

        Args:
            pool: M, prompts.
            length: L, tokens of a prompt.
            select: N, prompts that an observation takes; 5 in the paper, which leaves tasks little of their own.
            pull: lambda, at least 0.
            spread: Whether training prefers prompts that earlier tasks did not take.
        """

        pool: int = 10
        length: int = 5
        select: int = 2
        pull: float = 0.5
        spread: bool = True

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if options.length < 1:
            raise ConfigurationError(f"strategy.length must be at least 1, got {options.length}")
        if not 1 <= options.select <= options.pool:
            raise ConfigurationError(f"strategy.select must be 1 to strategy.pool={options.pool}, got {options.select}")
        if options.pull < 0:
            raise ConfigurationError(f"strategy.pull must be at least 0, got {options.pull}")
        self.task_free = options.first_task != "full"  # type: ignore[misc]
        self.taken = torch.zeros(options.pool, dtype=torch.int64)
        self.taken_now = torch.zeros(options.pool, dtype=torch.int64)

    def grow(self, task: int) -> None:
        """A parameter for each prompt, so that the optimiser can leave alone what was not taken."""
        for index in range(self.options.pool):
            self.make(f"prompt_{index}", self.options.length, self.width)
            self.make(f"key_{index}", self.query_width)

    def trained(self, task: int) -> set[str]:
        return set(self.pool)

    def prompts_for(self, query: Query, task: int | None) -> tuple[SoftPrompts, Tensor | float]:
        keys = torch.stack([self.pool[f"key_{index}"].detach() for index in range(self.options.pool)])
        frequencies = self.frequencies if task is not None and self.options.spread else None
        chosen = nearest(query.joined, keys, self.options.select, frequencies)
        kept, places = torch.unique(chosen, return_inverse=True)
        prompts = torch.stack([self.pool[f"prompt_{index}"] for index in kept.tolist()])[places]
        if task is None:
            return SoftPrompts(prompts.flatten(1, 2)), 0.0
        self.taken_now += torch.bincount(chosen.flatten(), minlength=self.options.pool).cpu()
        kept_keys = torch.stack([self.pool[f"key_{index}"] for index in kept.tolist()])
        distances = 1 - cosines(query.joined, kept_keys).gather(1, places)
        return SoftPrompts(prompts.flatten(1, 2)), self.options.pull * distances.sum(dim=1).mean()

    @torch.no_grad()
    def choice(self, observation: ObservationBatch) -> Choice | None:
        """Between prompts, which belong to no task."""
        if not self.tasks:
            return None
        size, select = self.options.pool, self.options.select
        keys = torch.stack([self.pool[f"key_{index}"] for index in range(size)])
        chosen = nearest(self.query(observation).joined, keys, select)
        weights = torch.zeros(len(chosen), size, device=chosen.device).scatter(1, chosen, 1.0 / select)
        return Choice(tuple(f"prompt_{index}" for index in range(size)), ((),) * size, weights)

    @property
    def frequencies(self) -> Tensor | None:
        """How often earlier tasks took each prompt (M,), as a share; None before there was one."""
        return self.taken / self.taken.sum() if self.taken.any() else None

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        self.taken += self.taken_now
        self.taken_now.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "taken": self.taken.clone(), "taken_now": self.taken_now.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.taken, self.taken_now = state["taken"].clone(), state["taken_now"].clone()


def nearest(query: Tensor, keys: Tensor, count: int, frequencies: Tensor | None = None) -> Tensor:
    """Indices (B, count) of the keys (M, Q) nearest to queries (B, Q) by 1 - cosine, the nearest first; each distance
    weighed by `frequencies` (M,) where they are given.
    """
    distances = 1 - cosines(query, keys)
    if frequencies is not None:
        distances = distances * frequencies.to(distances.device)
    return distances.topk(count, dim=1, largest=False).indices
