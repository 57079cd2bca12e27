"""What touches what: things by name, and the robot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NOBODY, _ROBOT = -1, -2


class Contacts:
    """Contacts between things, each of which is a body with all that hangs on it.

    Args:
        model, data: The `mujoco.MjModel` and `mujoco.MjData`.
        bodies: Numbers of the things' bodies, by name.
    """

    def __init__(self, model: Any, data: Any, bodies: Mapping[str, int]) -> None:
        self._data = data
        self._index = {name: index for index, name in enumerate(bodies)}
        owner_of_body = np.full(model.nbody, _NOBODY, dtype=np.intp)
        for name, body in bodies.items():
            owner_of_body[body] = self._index[name]
        for body in range(1, model.nbody):
            if owner_of_body[body] == _NOBODY:
                owner_of_body[body] = owner_of_body[int(model.body_parentid[body])]
            if model.body(body).name.startswith(("robot0_", "gripper0_")):
                owner_of_body[body] = _ROBOT
        self._owners: NDArray[np.intp] = owner_of_body[model.geom_bodyid]

    def between(self, first: str, second: str) -> bool:
        """Whether two things are in contact."""
        return self._between(self._index[first], self._index[second])

    def with_robot(self, name: str) -> bool:
        """Whether the robot touches a thing."""
        return self._between(self._index[name], _ROBOT)

    def geoms(self, name: str) -> NDArray[np.intp]:
        """Numbers of a thing's geoms; for the name "" those of nothing and nobody: table, floor, walls."""
        return np.flatnonzero(self._owners == (self._index[name] if name else _NOBODY))

    def _between(self, first: int, second: int) -> bool:
        pairs = np.sort(self._owners[self._data.contact.geom], axis=1)
        return bool((pairs == sorted((first, second))).all(axis=1).any())
