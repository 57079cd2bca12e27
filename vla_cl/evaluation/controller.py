"""Who acts in a rollout: anything that turns observations into chunks of actions."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from vla_cl.data import ObservationBatch
from vla_cl.errors import ConfigurationError

if TYPE_CHECKING:
    from vla_cl.policies import Policy


class Controller(abc.ABC):
    """What a rollout asks for actions.

    Attributes:
        execute: How many actions of a chunk are executed before the controller is asked again.
        history: How many moments it sees: with more than 1, observations have a `past`.
        temporal_ensemble: m of ACT's temporal ensembling, or None (see `PolicyConfig`).
    """

    execute: int
    history: int = 1
    temporal_ensemble: float | None = None

    @abc.abstractmethod
    def act(self, observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
        """Chunks of actions (B, chunk, A) in [-1, 1] from the present on, for B observations on the CPU; chunk is at
        least `execute`.

        `seeds` holds one seed a row: whatever is random in a row comes from its own seed, so that it does not matter
        which rows share a batch.
        """


class PolicyController(Controller):
    """A policy, and the strategy's choice of adapters, as a controller.

    Args:
        policy: Put into evaluation mode, where it stays, and queried without gradients.
        route: `Strategy.route`: which adapters act on these observations. None leaves the policy as it is.
        device: Where the policy lives.
        execute: Actions executed of each chunk, at most the policy's own; None is the policy's configuration.
    """

    def __init__(
        self,
        policy: Policy,
        route: Callable[[ObservationBatch], Any] | None = None,
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
        self._route = route
        self._device = device

    def act(self, observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
        features = self._policy.features
        observation = observation.widened(features.agent_pos_dim, features.environment_state_dim).to(self._device)
        if self._policy.training:
            self._policy.eval()
        with torch.inference_mode():
            route = None if self._route is None else self._route(observation)
            actions = self._policy.act(observation, seeds, route)
        return actions[:, self._lookback :].float().cpu().numpy()
