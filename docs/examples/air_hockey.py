"""A simulator of one's own behind the environment contract: a hand hits a puck without friction, in numpy."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import BACKENDS, EnvironmentSpec, ManipulationEnv
from vla_cl.tasks import EXPERTS

SIDE = 1.0  # metres, of the square table
HAND, PUCK = 0.05, 0.04  # metres, radii
SPEED = 0.05  # metres that the hand moves in a control step at full action
GOAL = 0.9  # metres in y beyond which the puck has scored
NUMBERS = 6
"""Of the whole state: where the hand and the puck are, and how far the puck moves in a control step."""


class AirHockeyEnv(ManipulationEnv):
    """Solved once the puck is at the far end, between `left` and `right` metres.

    Args:
        spec: How to build it.
        render_mode: None or "rgb_array".
        left, right: Ends of the goal in x, 0 to 1.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}
    default_cameras: ClassVar[tuple[str, ...]] = ("top",)

    def __init__(
        self, spec: EnvironmentSpec, render_mode: str | None = None, *, left: float = 0.0, right: float = 1.0
    ) -> None:
        super().__init__(spec, render_mode)
        self.left, self.right = left, right
        self.state = np.zeros(NUMBERS)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.reset_simulation(seed=0)
        self.observation_space = self.build_observation_space()

    def reset_simulation(self, seed: int) -> None:
        """A function of the seed alone."""
        generator = np.random.default_rng(seed)
        hand = generator.uniform([0.3, 0.1], [0.7, 0.2])
        puck = generator.uniform([0.3, 0.4], [0.7, 0.5])
        self.state = np.concatenate([hand, puck, np.zeros(2)])

    def simulate(self, action: NDArray[np.float32]) -> tuple[float, bool, dict[str, Any]]:
        """The hand moves; a puck that it touches takes its speed along the line between them; walls reflect."""
        hand, puck, speed = (self.state[at : at + 2] for at in (0, 2, 4))  # views: what follows changes the state
        moved = np.clip(hand + SPEED * action, 0.0, SIDE) - hand
        hand += moved
        distance = float(np.linalg.norm(puck - hand))
        if distance < HAND + PUCK:
            normal = (puck - hand) / max(distance, 1e-9)
            speed += normal * max(0.0, float((moved - speed) @ normal))
            puck[:] = hand + normal * (HAND + PUCK)
        puck += speed
        outside = (puck < 0.0) | (puck > SIDE)
        speed[outside] *= -1.0
        np.clip(puck, 0.0, SIDE, out=puck)
        success = bool(puck[1] > GOAL and self.left <= puck[0] <= self.right)
        return float(success), success, {}

    def agent_pos(self) -> NDArray[np.float32]:
        return self.state[:2].astype(np.float32)

    def environment_state(self) -> NDArray[np.float64]:
        return self.state.copy()

    def render_camera(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """Seen from above: far is up; the goal's ends are dark."""
        y, x = np.mgrid[height:0:-1, 0:width] / np.array([height, width]).reshape(2, 1, 1)
        image = np.full((height, width, 3), (225, 235, 240), np.uint8)
        image[(y > GOAL) & ((x < self.left) | (x > self.right))] = (90, 90, 90)
        for centre, radius, colour in (
            (self.state[2:4], PUCK, (200, 50, 50)),
            (self.state[:2], HAND, (50, 80, 200)),
        ):
            image[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2] = colour
        return image

    def get_state(self) -> NDArray[np.float64]:
        """What goes on from here, the steps taken included."""
        return np.append(self.state, self.elapsed_steps)

    def set_state(self, state: NDArray[np.float64]) -> None:
        self.state, self.elapsed_steps = np.array(state[:-1]), int(state[-1])


class Striker:
    """Behind the puck, as seen from the middle of the goal, then through it."""

    def reset(self, env: AirHockeyEnv, generator: np.random.Generator) -> None:
        """Nothing to prepare."""

    def act(self, env: AirHockeyEnv) -> NDArray[np.float32]:
        hand, puck = env.state[:2], env.state[2:4]
        shot = np.array([(env.left + env.right) / 2, SIDE]) - puck
        shot /= np.linalg.norm(shot)
        behind = puck - 0.15 * shot
        sideways = (hand - puck) @ np.array([-shot[1], shot[0]])
        ready = abs(sideways) < 0.005 and (hand - puck) @ shot < 0
        return np.clip((shot if ready else (behind - hand) / SPEED), -1.0, 1.0).astype(np.float32)


BACKENDS.register("air_hockey", AirHockeyEnv)
EXPERTS.register("air_hockey/striker", Striker)
