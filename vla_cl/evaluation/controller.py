"""Who acts in a rollout: anything that turns observations into chunks of actions."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from vla_cl.data import ObservationBatch
from vla_cl.errors import ConfigurationError
from vla_cl.strategies import Strategy

if TYPE_CHECKING:
    from vla_cl.policies import Policy


class Controller(abc.ABC):
    """What a rollout asks for actions.

    Attributes:
        execute: How many actions of a chunk are executed before the controller is asked again.
        history: How many moments it sees: with more than 1, observations have a `past`.
        temporal_ensemble: m of ACT's temporal ensembling, or None (see `PolicyConfig`).
        told_task: Whether it must be told which task each row is (`ObservationBatch.task`).
    """

    execute: int
    history: int = 1
    temporal_ensemble: float | None = None
    told_task: bool = False

    @abc.abstractmethod
    def act(self, observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
        """Chunks of actions (B, chunk, A) in [-1, 1] from the present on, for B observations on the CPU; chunk is at
        least `execute`.

        `seeds` holds one seed a row: whatever is random in a row comes from its own seed, so that it does not matter
        which rows share a batch.
        """


class PolicyController(Controller):
    """A policy, as its strategy lets it act, as a controller.

    Args:
        policy: Put into evaluation mode, where it stays, and queried without gradients.
        strategy: Bound to the policy; None is the policy as it is.
        device: Where the policy lives.
        execute: Actions executed of each chunk, at most the policy's own; None is the policy's configuration.

    Attributes:
        watch: Shown the observations, on the policy's device, before the policy acts on them; None: nobody watches.
    """

    watch: Callable[[ObservationBatch], None] | None = None

    def __init__(
        self,
        policy: Policy,
        strategy: Strategy | None = None,
        device: torch.device | str = "cpu",
        execute: int | None = None,
    ) -> None:
        config = policy.config
        ahead = config.chunk - config.lookback
        self.execute = config.execute if execute is None else execute
        if not 1 <= self.execute <= ahead:
            raise ConfigurationError(f"execute must be 1 to the policy's chunk of {ahead}, got {self.execute}")
        self.history = config.history
        self.temporal_ensemble = config.temporal_ensemble
        self._lookback = config.lookback
        self._policy = policy
        self._strategy = strategy or Strategy(None, 0)
        self._strategy.bind(policy)
        self.told_task = self._strategy.needs.task_id_at_test
        self._device = device
        self._decisions = 0
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """What all decisions took so far."""
        return self._seconds

    @property
    def milliseconds(self) -> float:
        """What a decision took so far, on average; those of a batch share its time."""
        return 1000 * self._seconds / max(1, self._decisions)

    def act(self, observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
        started = time.perf_counter()
        features = self._policy.features
        observation = observation.widened(features.agent_pos_dim, features.environment_state_dim).to(self._device)
        if self._policy.training:
            self._policy.eval()
        actions = torch.empty(len(observation), self._policy.config.chunk, features.action_dim)
        for rows in self._groups(observation):
            part = observation if len(rows) == len(observation) else observation[rows]
            if self.watch is not None:
                self.watch(part)
            with torch.inference_mode(), self._strategy.acting_pass(part):
                acted = self._policy.act(part, [seeds[row] for row in rows])
                actions[rows] = self._strategy.decide(part, acted).float().cpu()
        self._decisions += len(observation)
        self._seconds += time.perf_counter() - started
        return actions[:, self._lookback :].numpy()

    def _groups(self, observation: ObservationBatch) -> list[list[int]]:
        """The rows that are acted on together: a strategy that is told tasks sees one task at a time."""
        if not self.told_task:
            return [list(range(len(observation)))]
        if observation.task is None:
            raise ConfigurationError("this strategy must be told at test which task it faces; the observation does not")
        names = observation.task
        return [[row for row, name in enumerate(names) if name == task] for task in dict.fromkeys(names)]
