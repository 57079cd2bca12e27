"""An environment that knows nothing of us, registered as a package would."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


class ThermostatEnv(gymnasium.Env[Any, Any]):
    """Heat a room to its wish without MuJoCo: nested observations, an action that is not in [-1, 1], images inside."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, render_mode: str | None = None, noise: float = 0.1, melts_at: float = np.inf) -> None:
        self.render_mode, self.noise, self.melts_at = render_mode, noise, melts_at
        self.action_space = gymnasium.spaces.Box(np.array([0.0, -2.0]), np.array([10.0, 2.0]), dtype=np.float64)
        number = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
        image = gymnasium.spaces.Box(0, 255, (3, 16, 24), np.uint8)
        parts = {"room": gymnasium.spaces.Dict({"now": number, "wish": number}), "view": image}
        self.observation_space = gymnasium.spaces.Dict(parts)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.now, self.wish = self.np_random.uniform(10, 20), self.np_random.uniform(15, 25)
        return self._observed(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.commanded = np.array(action)
        self.now += 0.1 * action[0] + 0.2 * action[1] + self.noise * self.np_random.normal()
        frozen = self.now < 0
        return self._observed(), 0.0, frozen, False, {"warm": abs(self.now - self.wish) < 0.5}

    def render(self) -> Any:
        image = np.zeros((40, 60, 3), np.uint8)
        image[: int(self.now), :, 0] = 255
        return image

    def _observed(self) -> Any:
        view = np.zeros((3, 16, 24), np.uint8)
        view[2, :, : int(self.now)] = 200
        told = self.now if self.now < self.melts_at else np.nan  # the sensor is no more
        return {"room": {"now": np.array([told]), "wish": np.array([self.wish])}, "view": view}


gymnasium.register("vla_cl_tests/Thermostat-v0", ThermostatEnv, max_episode_steps=3)
