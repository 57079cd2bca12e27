"""A plug-in with backends that misbehave, for the tests of the pool. Loaded by path, as a user's file is."""

from __future__ import annotations

import os
from typing import Any

from vla_cl.envs import BACKENDS, MetaWorldEnv
from vla_cl.errors import UnknownNameError


class FailingEnv(MetaWorldEnv):
    """Meta-World, except that the third control step raises whatever `error` says, or ends its process."""

    def __init__(self, *arguments: Any, error: str, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self._error = error

    def advance(self, action: Any) -> Any:
        if self.elapsed_steps == 2:
            match self._error:
                case "own":
                    raise UnknownNameError("gripper", "left", ["right"])
                case "foreign":
                    raise ValueError("the arm fell off")
                case "exit":
                    os._exit(3)
        return super().advance(action)


class DivergingEnv(MetaWorldEnv):
    """Meta-World, except that the simulation becomes unstable in an episode's third control step if its seed is odd."""

    built = 0

    def __init__(self, *arguments: Any, **others: Any) -> None:
        DivergingEnv.built += 1
        self._number = DivergingEnv.built
        super().__init__(*arguments, **others)

    def reset_simulation(self, seed: int) -> None:
        super().reset_simulation(seed)
        self.meta_world.began_at = float(seed)  # part of the state: episodes take turns in an environment

    def simulate(self, action: Any) -> Any:
        if self.meta_world.began_at % 2 and self.elapsed_steps == 2:
            self.data.qvel[:] = 1e12
        _, success, info = super().simulate(action)
        return self._number, success, info  # so that a test sees which environment it was


BACKENDS.register("failing", FailingEnv)
BACKENDS.register("diverging", DivergingEnv)
