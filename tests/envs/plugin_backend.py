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


BACKENDS.register("failing", FailingEnv)
