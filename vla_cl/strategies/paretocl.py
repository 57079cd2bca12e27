"""ParetoCL: one policy for every trade-off between stability and plasticity, which is chosen when acting.

Lai et al., "Pareto Continual Learning: Preference-Conditioned Learning and Adaption for Dynamic Stability-Plasticity
Trade-off", AAAI 2025 (arXiv 2503.23390).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vla_cl.data import Batch, ObservationBatch, WindowDataset, concatenate
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy, PolicyOutput
from vla_cl.seeding import numpy_generator, torch_generator
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.own_modules import seeded_module
from vla_cl.strategies.preferences import Hypernetwork, conditioned
from vla_cl.strategies.rehearsal import Rehearsal
from vla_cl.tasks import Task


@STRATEGIES.decorator("paretocl")
class ParetoCL(Rehearsal):
    """Preference-conditioned learning from a replay memory.

    A preference a = (a_1, a_2) of at least 0, a_1 + a_2 = 1, conditions the model, which learns all of them at once:

        min E_a [a_1 L_replay(a) + a_2 L_new(a)],    a ~ Dirichlet(concentration, concentration).

    Each row of a batch draws a preference of its own, which makes of one pass an unbiased estimate of the expectation;
    before anything can be replayed, rows count alike. When acting, the preference is given, or found for each
    observation by itself: of a few candidates, the one whose sampled actions differ least from noise to noise.

    The objective and the hypernetwork are the paper's, which generates a classifier by it. Ours: it generates a scale
    and a shift of the context (see `Hypernetwork`), so that any head can follow; a preference a row; and how the
    preference is found when acting, since the paper's choice, also sample by sample, rests on a classifier's outputs. A
    head that samples nothing is as sure of each candidate, and acts by the balanced one.
    """

    whole_batches: ClassVar[str] = "it draws a batch's preferences row by row"

    @dataclass
    class Options(Rehearsal.Options):
        """Those of `Rehearsal`, the mixture, and preferences.

        Args:
            ratio: Share of each batch that is replayed, 0 to 1. It decides how many rows each loss is taken on, not
                what it weighs.
            concentration: Of the Dirichlet distribution, above 0; 1 is uniform.
            width: Of the hypernetwork's hidden layer, at least 1.
            preference: a_1 when acting, 0 (plasticity) to 1 (stability); null finds it for each observation.
            candidates: Preferences to choose from, at least 1, where it is found.
            draws: Actions that are sampled for each candidate, at least 2.
        """

        ratio: float = 0.5
        concentration: float = 1.0
        width: int = 64
        preference: float | None = 0.5
        candidates: int = 3
        draws: int = 4

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if not 0.0 <= options.ratio <= 1.0:
            raise ConfigurationError(f"strategy.ratio must be 0 to 1, got {options.ratio}")
        if options.preference is not None and not 0.0 <= options.preference <= 1.0:
            raise ConfigurationError(f"strategy.preference must be 0 to 1, or null, got {options.preference}")
        if options.concentration <= 0:
            raise ConfigurationError(f"strategy.concentration must be above 0, got {options.concentration}")
        for name, least in (("width", 1), ("candidates", 1), ("draws", 2)):
            if getattr(options, name) < least:
                raise ConfigurationError(f"strategy.{name} must be at least {least}, got {getattr(options, name)}")
        self.hypernetwork: Hypernetwork | None = None
        self.saved: Mapping[str, Tensor] = {}
        self.drawn = 0
        self.preferences = torch.zeros(0, 2)  # of the present batch's rows
        self.weights = torch.zeros(0)
        self.rows = slice(0, 0)  # of the present part of it

    @property
    def acting_passes(self) -> float:  # type: ignore[override]
        """The head's, for each candidate and draw."""
        return float(self.options.candidates * self.options.draws) if self.options.preference is None else 0.0

    def bind(self, policy: Policy) -> None:
        super().bind(policy)
        if self.saved and self.hypernetwork is None:
            self._grow()
            self.load_hypernetwork(self.saved)

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        if self.hypernetwork is None:
            self._grow()

    def _grow(self) -> None:
        policy, width = self.policy, self.options.width
        network = seeded_module(lambda: Hypernetwork(policy, width), self.seed, "hypernetwork")
        self.hypernetwork = network.to(next(policy.parameters()).device)

    def modules(self) -> Mapping[str, nn.Module]:
        return {"hypernetwork": self.hypernetwork} if self.hypernetwork is not None else {}

    def batch(self, batch: Batch) -> Batch:
        generator = numpy_generator(self.seed, "preferences", self.drawn)
        self.drawn += 1
        replayed = round(self.options.ratio * len(batch)) if len(self.memory) else 0
        mixed = batch
        if replayed:
            mixed = concatenate([batch[: len(batch) - replayed], self.memory.sample(replayed, generator)])
        self.observe(batch)
        drawn = generator.dirichlet([self.options.concentration] * 2, size=len(batch))
        self.preferences = torch.from_numpy(drawn).float()
        self.weights = row_weights(self.preferences, replayed)
        self.rows = slice(0, 0)
        return mixed

    def training_pass(self, batch: Batch) -> AbstractContextManager[Any]:
        if self.hypernetwork is None:
            return nullcontext()
        self.rows = slice(self.rows.stop, self.rows.stop + len(batch))  # parts come in order
        return conditioned(self.policy, self.hypernetwork, self.preferences[self.rows])

    def loss(self, batch: Batch, output: PolicyOutput) -> Tensor | float:
        weights = self.weights[self.rows].to(output.loss.device)
        return ((weights - 1) * output.loss).mean()  # the mean loss is in already

    def acting_pass(self, observation: ObservationBatch) -> AbstractContextManager[Any]:
        if self.hypernetwork is None:
            return nullcontext()
        stability = self.options.preference
        chosen = self.surest(observation) if stability is None else preference(stability)
        return conditioned(self.policy, self.hypernetwork, chosen)

    @torch.no_grad()
    def surest(self, observation: ObservationBatch) -> Tensor:
        """For each observation, the candidate (B, 2) at which its sampled actions vary least; of equals, the most
        balanced.
        """
        assert self.hypernetwork is not None
        policy, options = self.policy, self.options
        context = policy.context(observation)
        shape = (options.draws, 1, policy.config.chunk, policy.features.action_dim)
        noise = torch.randn(shape, generator=torch_generator(self.seed, "surest")).to(context.tokens.device)
        found = candidates(options.candidates).to(context.tokens.device)
        spreads = []
        for each in found:
            changed = self.hypernetwork(context, each[None])
            actions = [policy.head.sample(changed, draw.expand(len(context), -1, -1)) for draw in noise]
            spreads.append(torch.stack(actions).float().var(dim=0).mean(dim=(1, 2)))
        return found[torch.stack(spreads).argmin(dim=0)]

    def state_dict(self) -> dict[str, Any]:
        grown = self.saved if self.hypernetwork is None else self.hypernetwork.state_dict()
        return {**super().state_dict(), "hypernetwork": dict(grown), "drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.drawn = int(state["drawn"])
        self.saved = dict(state["hypernetwork"])
        if self.hypernetwork is not None and self.saved:
            self.load_hypernetwork(self.saved)

    def load_hypernetwork(self, state: Mapping[str, Tensor]) -> None:
        """Take weights in place."""
        assert self.hypernetwork is not None
        self.hypernetwork.load_state_dict(state)


def row_weights(preferences: Tensor, replayed: int) -> Tensor:
    """Weights (B,) whose products with the rows' losses have the mean a_1 L_replay + a_2 L_new.

    Args:
        preferences: One a row (B, 2).
        replayed: How many rows, the last ones, are replayed. Where all or none are, there is one loss, and rows count
            alike.
    """
    rows = len(preferences)
    fresh = rows - replayed
    if not replayed or not fresh:
        return torch.ones(rows)
    return torch.cat([preferences[:fresh, 1] * rows / fresh, preferences[fresh:, 0] * rows / replayed])


def preference(stability: float) -> Tensor:
    """One preference (1, 2)."""
    return torch.tensor([[stability, 1.0 - stability]])


def candidates(count: int) -> Tensor:
    """Preferences (count, 2), evenly spaced inside the simplex, the most balanced first."""
    stability = (torch.arange(count) + 0.5) / count
    nearest = (stability - 0.5).abs().argsort(stable=True)
    return torch.cat([preference(float(each)) for each in stability[nearest]])
