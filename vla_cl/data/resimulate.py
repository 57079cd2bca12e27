"""Doing a stored demonstration again in the simulator, to see whether the same comes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_cl.data.schema import Episode
from vla_cl.envs import ManipulationEnv


@dataclass(frozen=True)
class Divergence:
    """Where a demonstration that is done again leaves the stored one.

    Args:
        step: The action after which it was noticed, from 0; -1 is the first state, before any action.
        what: "state" or "success".
        difference: Largest absolute difference between the two states; 0 when only success differs, infinite when a
            number is missing in one of them, or the lengths differ.
    """

    step: int
    what: str
    difference: float


def resimulate(env: ManipulationEnv, episode: Episode) -> Divergence | None:
    """Restore the first state, apply the executed actions, and compare every state bit for bit.

    Success must come with the last action, and with none before.

    Args:
        env: The environment of the demonstrations. Nothing is drawn.
        episode: A demonstration; its observations are not looked at.

    Returns:
        The first difference, or None.

    Raises:
        ConfigurationError: The actions do not fit the environment.
    """
    if env.get_state().shape != episode.states[0].shape:
        return Divergence(-1, "state", float("inf"))
    env.set_state(episode.states[0])
    if not _same(env.get_state(), episode.states[0]):
        return Divergence(-1, "state", _difference(env.get_state(), episode.states[0]))
    last = len(episode) - 1
    for step, action in enumerate(episode.executed_actions):
        success = env.advance(action).terminated
        if step < last and not _same(env.get_state(), episode.states[step + 1]):
            return Divergence(step, "state", _difference(env.get_state(), episode.states[step + 1]))
        if success != (step == last):
            return Divergence(step, "success", 0.0)
    return None


def _same(one: NDArray[np.float64], two: NDArray[np.float64]) -> bool:
    return one.tobytes() == two.tobytes()


def _difference(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """The largest absolute difference; what is not a number in both is equal."""
    differences = np.abs(one - two)[~((np.isnan(one) & np.isnan(two)) | (one == two))]
    return float(np.nan_to_num(differences, nan=np.inf).max(initial=0.0))
