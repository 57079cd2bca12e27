"""DMPEL: a growing library of low-rank experts, mixed by a router that is retrained without demonstrations.

Lei et al., "Dynamic Mixture of Progressive Parameter-Efficient Expert Library for Lifelong Robot Learning", arXiv
2506.05985.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_cl.data import Batch, ObservationBatch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import Route, mixture
from vla_cl.seeding import torch_generator
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.choice import Choice
from vla_cl.strategies.features import CHUNK, observation_features, text_features
from vla_cl.strategies.low_rank import LowRankStrategy
from vla_cl.strategies.own_modules import seeded_module
from vla_cl.strategies.routing import some_windows
from vla_cl.tasks import Task

BATCH = 32
"""Pairs in a step of coefficient replay."""


class CoefficientRouter(nn.Module):
    """Query to coefficients in [0, 2] of the experts, all but the `top` largest of them 0: 2 sigmoid(MLP(query)).

    At first the `top` coefficients are about 1 / top, as in the published code.

    Args:
        inputs: Numbers of a query.
        hidden: Width of its two hidden layers.
        experts: E, at least 1.
        top: How many act at once.
    """

    def __init__(self, inputs: int, hidden: int, experts: int, top: int) -> None:
        super().__init__()
        self.top = min(top, experts)
        last = nn.Linear(hidden, experts)
        start = 0.5 / self.top
        nn.init.constant_(last.bias, math.log(start / (1.0 - start)))
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden), nn.GELU("tanh"), nn.Linear(hidden, hidden), nn.GELU("tanh"), last
        )

    def forward(self, queries: Tensor) -> Tensor:
        """Coefficients (B, E) of queries (B, Q)."""
        coefficients: Tensor = 2.0 * self.layers(queries).sigmoid()
        largest = coefficients.topk(self.top, dim=1).indices
        return coefficients * torch.zeros_like(coefficients).scatter(1, largest, 1.0)

    @staticmethod
    def like(state: Mapping[str, Tensor], top: int) -> CoefficientRouter:
        """A router of the sizes of the one that a state dict is of, with its weights."""
        first, last = state["layers.0.weight"], state["layers.4.weight"]
        router = CoefficientRouter(first.shape[1], first.shape[0], len(last), top)
        router.load_state_dict(state)
        return router


def router_queries(policy: Policy, observation: ObservationBatch) -> Tensor:
    """What the router is told (B, 384 + D + S): instruction, image or state, proprioception, no gradient anywhere."""
    seen = observation_features(policy, observation)
    text = text_features(observation.instruction, seen.device)
    return torch.cat([text, seen, policy.normaliser.agent_pos.normalise(observation.agent_pos).float()], dim=1)


@STRATEGIES.decorator("dmpel")
class DMPEL(LowRankStrategy):
    """Every layer adds sum_i c_i(q) alpha / r B_i A_i x, the query q being instruction, observation and proprioception.

    A task adds one expert, which it trains together with the router; all earlier experts act with it and are frozen.
    At its beginning the router starts anew, one output larger. At its end (query, coefficients) pairs of it are stored,
    and the router is trained for some epochs on the pairs of all tasks, mean squared error of coefficients: coefficient
    replay, which needs no demonstrations.

    Ours: one coefficient an expert for all layers, where the published code has six, one for each part of its network;
    the query's features are a sentence encoder's and the base weights'. Where the first task trains the base weights,
    its pairs say that no expert acts.
    """

    @dataclass
    class Options(LowRankStrategy.Options):
        """Library and router.

        Args:
            top: Experts that act at once; 3 in the paper.
            hidden: Width of the router; 256 in the published code.
            samples: Pairs that are stored of each task.
            replay_epochs: Over all pairs, at each boundary; 10 in the paper.
            replay_rate: Learning rate of the coefficient replay, positive.
        """

        top: int = 3
        hidden: int = 256
        samples: int = 256
        replay_epochs: int = 10
        replay_rate: float = 1e-3

    options: Options

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        for key, least in (("top", 1), ("hidden", 1), ("samples", 1), ("replay_epochs", 0)):
            if getattr(options, key) < least:
                raise ConfigurationError(f"strategy.{key} must be at least {least}, got {getattr(options, key)}")
        if not options.replay_rate > 0.0:
            raise ConfigurationError(f"strategy.replay_rate must be positive, got {options.replay_rate}")
        self.router: CoefficientRouter | None = None
        self.pairs: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def extra_passes(self) -> float:  # type: ignore[override]
        """The query takes a pass through the backbone without experts."""
        return float(self.router is not None)

    acting_passes = 1.0

    def bind(self, policy: Policy) -> None:
        super().bind(policy)
        if self.router is not None:
            self.router.to(next(policy.parameters()).device)

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        if not self.adapters:
            return
        with torch.no_grad():
            inputs = router_queries(policy, data.batch([0]).observation.to(next(policy.parameters()).device)).shape[1]
        options = self.options
        self.router = seeded_module(
            lambda: CoefficientRouter(inputs, options.hidden, len(self.adapters), options.top),
            *(self.seed, "router", self.stage),
        )
        self.bind(policy)

    def modules(self) -> Mapping[str, nn.Module]:
        return {} if self.router is None else {"router": self.router}

    def training_pass(self, batch: Batch) -> AbstractContextManager[Any]:
        route = self.route(batch.observation)
        return nullcontext() if route is None else mixture(self.policy, route)

    def route(self, observation: ObservationBatch) -> Route | None:
        if self.router is None:
            return None
        coefficients = self.router(router_queries(self.policy, observation))
        return {name: coefficients[:, index] for index, name in enumerate(self.adapters)}

    def choice(self, observation: ObservationBatch) -> Choice | None:
        route = self.route(observation)
        return None if not route else Choice.among_adapters(self.owners, route)  # type: ignore[arg-type]

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().end_task(task, policy, data)
        windows = some_windows(data, self.options.samples, self.seed, "samples", self.stage)
        device = next(policy.parameters()).device
        queries = torch.cat(
            [
                router_queries(policy, data.batch(windows[start : start + CHUNK]).observation.to(device))
                for start in range(0, len(windows), CHUNK)
            ]
        )
        with torch.no_grad():
            coefficients = queries.new_zeros(len(queries), 0) if self.router is None else self.router(queries)
        self.pairs[task.name] = (queries.cpu(), coefficients.cpu())
        if self.router is not None and len(self.pairs) > 1:
            self.replay_coefficients(self.router)

    def replay_coefficients(self, router: CoefficientRouter) -> None:
        """Train the router on the stored pairs; coefficients of experts that came later are 0."""
        device = next(router.parameters()).device
        queries = torch.cat([each for each, _ in self.pairs.values()]).to(device)
        experts = len(self.adapters)
        told = [F.pad(each, (0, experts - each.shape[1])) for _, each in self.pairs.values()]
        coefficients = torch.cat(told).to(device)
        optimiser = torch.optim.AdamW(router.parameters(), lr=self.options.replay_rate)
        for epoch in range(self.options.replay_epochs):
            order = torch.randperm(len(queries), generator=torch_generator(self.seed, "replay", self.stage, epoch))
            for rows in torch.split(order.to(device), BATCH):
                optimiser.zero_grad()
                F.mse_loss(router(queries[rows]), coefficients[rows]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "router": {} if self.router is None else self.router.state_dict(),
            "pairs": {task: list(pair) for task, pair in self.pairs.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.pairs = {task: (queries, coefficients) for task, (queries, coefficients) in state["pairs"].items()}
        if not state["router"]:
            self.router = None
        elif self.router is not None and len(self.router.layers[-1].bias) == len(state["router"]["layers.4.bias"]):  # type: ignore[arg-type]
            self.router.load_state_dict(state["router"])
        else:
            self.router = CoefficientRouter.like(state["router"], self.options.top)
