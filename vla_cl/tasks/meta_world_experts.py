"""Scripted experts for Meta-World.

The package ships one hand-written policy a task. Each is a function of the 39 numbers of Meta-World's own observation,
which is what `environment_state()` returns for the backend "meta_world": hand position (3), gripper opening (1), then
position (3) and quaternion (4) of up to two objects, the same 18 numbers one step earlier, and the goal (3).

Two of them need more than 200 steps, or never arrive, in a quarter to a half of the episodes. As both belong to
Continual World's sequence, we correct them here.

Source: Yu et al., "Meta-World: A Benchmark and Evaluation for Multi-Task and Meta Reinforcement Learning", 2019;
`metaworld.policies` of the package.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import ManipulationEnv
from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.errors import ConfigurationError

ScriptedPolicy = Callable[[NDArray[np.float64]], NDArray[np.floating[Any]]]
"""From Meta-World's observation (39,) to an action (4,), possibly beyond [-1, 1]. It may write into its argument."""

HAND, OPENING, FIRST_OBJECT, SECOND_OBJECT, GOAL = slice(0, 3), 3, slice(4, 7), slice(11, 14), slice(36, 39)
"""Where the observation holds what."""


class MetaWorldExpert:
    """The scripted policy for one Meta-World task, behind the `Expert` protocol.

    Deterministic and without memory: the action depends on the present state alone, so an expert can take over an
    episode at any step, which is what labelling noisy demonstrations needs.

    Args:
        task: Meta-World's name of the task, with its version ("window-close-v3").

    Raises:
        ConfigurationError: There is no scripted policy for the task.
    """

    def __init__(self, task: str) -> None:
        self.task = task
        self._policy = _scripted_policy(task)

    def reset(self, env: ManipulationEnv, generator: np.random.Generator) -> None:
        """Start an episode. Nothing to prepare: the policy keeps no state and draws no random number."""

    def act(self, env: ManipulationEnv) -> NDArray[np.float32]:
        """The action (4,) in [-1, 1]: hand motion along x, y and z in centimetres, and the gripper's closing effort."""
        action = self._policy(np.array(env.environment_state(), dtype=np.float64))
        clipped: NDArray[np.float32] = np.clip(action, -1.0, 1.0).astype(np.float32)
        return clipped


def push_back(state: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drag the block back only once it is held.

    The package's policy starts to drag, and to lift, while the gripper is still closing; the block slips out, and
    catching it again takes some hundred steps. Ours waits for the gripper and keeps the hand's height.
    """
    hand, block, goal = state[HAND], state[FIRST_OBJECT], state[GOAL]
    gain, open_gripper, closed_gripper = 10.0, -1.0, 0.9
    over_block = np.array([block[0], block[1], block[2] + 0.3])
    above_block = np.linalg.norm(hand[:2] - block[:2]) <= 0.04
    at_block = abs(hand[2] - block[2]) <= 0.055
    if not above_block:
        target, effort = over_block, open_gripper
    elif not at_block:
        target, effort = block, open_gripper
    elif state[OPENING] > 0.6:
        target, effort = block, closed_gripper
    else:
        target, effort = np.array([goal[0], goal[1], hand[2]]), closed_gripper
    return np.append(gain * (target - hand), effort)


def stick_pull(state: NDArray[np.float64]) -> NDArray[np.floating[Any]]:
    """Once the stick is through the handle, bring the handle to the goal.

    The package's policy brings the hand to a fixed distance from the goal, where the handle often stops a few
    millimetres out of reach. Ours measures how far the handle itself has to go, and does not press the stick down.
    """
    stick, handle, goal = state[FIRST_OBJECT], state[SECOND_OBJECT], state[GOAL]
    to_go = goal[:2] - handle[:2]
    inserted = abs(stick[0] - handle[0]) <= 0.04
    action = _packaged_policy("stick-pull-v3")(state)
    return np.array([*25.0 * to_go, 0.0, action[3]]) if inserted else action


CORRECTED: dict[str, ScriptedPolicy] = {"push-back-v3": push_back, "stick-pull-v3": stick_pull}
"""Our own policies, in place of the package's."""


def _scripted_policy(task: str) -> ScriptedPolicy:
    return CORRECTED[task] if task in CORRECTED else _packaged_policy(task)


@cache
def _packaged_policy(task: str) -> ScriptedPolicy:
    """The package's policy for a task, without memory and so shared."""
    import_mujoco()  # metaworld imports it, and would fail in its own words where GL is missing
    from metaworld.policies import ENV_POLICY_MAP

    if task not in ENV_POLICY_MAP:
        raise ConfigurationError(f"metaworld has no scripted policy for {task!r}; name one of its v3 tasks")
    policy = ENV_POLICY_MAP[task]()

    def act(state: NDArray[np.float64]) -> NDArray[np.floating[Any]]:
        with warnings.catch_warnings():
            # The gains exceed 1 far from the target on purpose, and the package warns at each such step.
            warnings.simplefilter("ignore")
            action: NDArray[np.floating[Any]] = policy.get_action(state)
        return action

    return act
