"""What is written into a model for the length of an episode, and taken back without a trace."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_cl.envs.decorations import Decoration
from vla_cl.envs.mujoco_import import import_mujoco

if TYPE_CHECKING:
    from vla_cl.envs.base import ManipulationEnv


class Changes:
    """Writes to the arrays of an environment's model that concern pictures alone, each with what was there before.

    Physics must not depend on them: cameras, lights, colours, materials. They are no part of the environment's state,
    and are not there while it is saved or restored.
    """

    def __init__(self, env: ManipulationEnv) -> None:
        self._env = env
        self._written: list[tuple[str, Any, NDArray[Any]]] = []
        self._before: list[NDArray[Any]] = []
        self._decorations: list[Decoration] = []

    def write(self, name: str, rows: Any, values: ArrayLike) -> None:
        """Write to an array of the model, at once.

        Args:
            name: Of the array ("light_diffuse"), or of one inside of a part ("vis.headlight.diffuse").
            rows: What of it, as an index.
            values: What to write there.
        """
        array = self._array(name)
        self._before.append(np.copy(array[rows]))
        array[rows] = values
        self._written.append((name, rows, np.copy(array[rows])))

    def decorate(self, decoration: Decoration) -> None:
        """Have something drawn beside the model."""
        self._decorations.append(decoration)
        self._show(self._decorations)

    def apply(self) -> None:
        """Make them again, after they were taken back. What hangs on them is brought up to date."""
        for name, rows, values in self._written:
            array = self._array(name)
            self._before.append(np.copy(array[rows]))
            array[rows] = values
        self._show(self._decorations)
        self.update()

    def update(self) -> None:
        """Have cameras and lights be where the model says. Nothing that is part of a state changes."""
        if self._written:
            import_mujoco().mj_camlight(self._env.model, self._env.data)

    def take_back(self) -> None:
        """Leave the model as it was before; harmless where they are taken back already."""
        for (name, rows, _), before in zip(reversed(self._written), reversed(self._before), strict=False):
            self._array(name)[rows] = before
        self._before.clear()
        self._show([])

    def _show(self, decorations: list[Decoration]) -> None:
        if self._env.renderer is not None:
            self._env.renderer.decorations = tuple(decorations)

    def _array(self, name: str) -> NDArray[Any]:
        array: NDArray[Any] = reduce(getattr, name.split("."), self._env.model)
        return array
