"""The simulator's states as MuJoCo's own vectors, which other programs can read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_cl.data.schema import SOURCE, Episode, Header
from vla_cl.envs import EnvironmentSpec, ManipulationEnv, ObservationOptions, make_environment
from vla_cl.errors import VlaClError

logger = logging.getLogger(__name__)

ARM_JOINTS = tuple(f"robot0_joint{number}" for number in range(1, 8))
"""Of robosuite's arm with seven joints, the one of LIBERO."""


class FlatStates(NamedTuple):
    """One demonstration's states.

    Args:
        states: (T + 1, 1 + nq + nv) float64: time, qpos, qvel before each action and after the last.
        joints: (T + 1, 7) float64, radians: the arm's joints; None for another robot.
    """

    states: NDArray[np.float64]
    joints: NDArray[np.float64] | None


FlattenStates = Callable[[Episode], FlatStates | None]


@contextmanager
def state_flattener(header: Header, plugins: Sequence[str] = ()) -> Iterator[FlattenStates]:
    """A function that restores a demonstration's states in the simulator and reads MuJoCo's; it lives in the block.

    Where the simulator cannot be built, or the states are not its own, the function returns None, and the log says
    why, once. States that came from LIBERO are as they must be already.
    """
    source = header.collection.get(SOURCE, {})
    if source:
        yield _as_they_are if source.get("layout") == "libero" else lambda episode: None
        return
    try:
        seen = ObservationOptions(cameras=())
        spec = EnvironmentSpec(**header.environment, observation=seen, plugins=tuple(plugins), task=header.task)
        env = make_environment(spec)
    except VlaClError as error:
        logger.warning("%s: states are left out, the simulator cannot be built: %s", header.task, error)
        yield lambda episode: None
        return
    with closing(env):
        yield lambda episode: _flatten(env, episode)


def _as_they_are(episode: Episode) -> FlatStates | None:
    if not episode.states.size:
        return None
    return FlatStates(np.concatenate([episode.states, episode.states[-1:]]), None)


def _flatten(env: ManipulationEnv, episode: Episode) -> FlatStates | None:
    if not (episode.states.size and hasattr(env.data, "qpos")):
        return None
    rows = []
    try:
        for state in episode.states:
            env.set_state(state)
            rows.append(_flat(env.data))
        env.advance(episode.executed_actions[-1])
    except VlaClError as error:
        logger.warning("%s: states are left out, the simulator does not take them: %s", env.specification.task, error)
        return None
    states = np.stack([*rows, _flat(env.data)])
    addresses = _addresses(env.model)
    return FlatStates(states, None if addresses is None else states[:, 1 + addresses])


def _flat(data: Any) -> NDArray[np.float64]:
    return np.concatenate([[data.time], data.qpos, data.qvel])


def _addresses(model: Any) -> NDArray[np.int64] | None:
    """Where the arm's joints are in qpos."""
    try:
        return np.array([int(model.joint(name).qposadr[0]) for name in ARM_JOINTS], np.int64)
    except KeyError:
        return None
