"""Scripted experts for two environments of Gymnasium-Robotics; an action moves the hand by up to 5 cm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import GymnasiumEnv
from vla_cl.tasks import EXPERTS

STEP = 0.05  # metres that the hand's target moves at full action
BEHIND = 0.07  # metres from the block's middle to where pushing starts
CLEARANCE = 0.09  # metres above the block at which the hand passes over it


def towards(displacement: NDArray[np.float64], gain: float = 1.0) -> NDArray[np.float32]:
    """The action that moves the hand by a displacement (3,) in metres, as fast as it may."""
    motion = np.clip(gain * displacement / STEP, -1.0, 1.0)
    return np.append(motion, 0.0).astype(np.float32)


class FetchExpert:
    """Reads the environment's own observation; a function of the state alone."""

    def reset(self, env: GymnasiumEnv, generator: np.random.Generator) -> None:
        """Nothing to prepare."""


@EXPERTS.decorator("fetch/reach")
class ReachExpert(FetchExpert):
    """Straight to the goal."""

    def act(self, env: GymnasiumEnv) -> NDArray[np.float32]:
        return towards(env.observed["desired_goal"] - env.observed["achieved_goal"])


@EXPERTS.decorator("fetch/push")
class PushExpert(FetchExpert):
    """Over the block to the side away from the goal, down, and push along the line to the goal."""

    def act(self, env: GymnasiumEnv) -> NDArray[np.float32]:
        hand, block = env.observed["observation"][:3], env.observed["achieved_goal"]
        way = (env.observed["desired_goal"] - block)[:2]
        way /= np.linalg.norm(way) + 1e-9
        offset = (hand - block)[:2]
        along, across = offset @ way, offset @ [-way[1], way[0]]
        low = hand[2] < block[2] + 0.02
        if low and along < -0.03 and abs(across) < 0.02:  # behind the block: push, and keep on the line
            forward, sideways = 0.7 * STEP * way, -2.0 * across * np.array([-way[1], way[0]])
            return towards(np.append(forward + sideways, block[2] - hand[2]))
        start = block[:2] - BEHIND * way
        to_start = start - hand[:2]
        if np.linalg.norm(to_start) < 0.015:  # over the place behind the block: down
            return towards(np.append(to_start, block[2] - hand[2]))
        if hand[2] < block[2] + 0.8 * CLEARANCE:  # up, before the hand passes over the block
            return towards(np.array([0.0, 0.0, block[2] + CLEARANCE - hand[2]]))
        return towards(np.append(to_start, block[2] + CLEARANCE - hand[2]))
