"""Everything that an episode changes in a MuJoCo simulation, as one flat vector: what exact saving needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.attributes import NumericAttributes
from vla_cl.envs.mujoco_import import import_mujoco, instability_counters
from vla_cl.errors import SimulationError

_NEVER_MOVED = ("mesh_", "tex_", "skin_", "hfield_", "name_", "names", "paths", "text_", "bvh_", "oct_")
"""Prefixes of the large arrays of a model, which no reset writes to."""


class SimulationState:
    """Saves and restores a simulation: MuJoCo's integration state, what resets write into the model, and Python's part.

    Which arrays of the model, and which attributes of the objects, belong to an episode is found by looking: call
    `observe` in some states, and whatever differed from the model as it was compiled, or was numeric in the objects,
    becomes part of the vector. After that the layout is fixed.

    Args:
        model: The `mujoco.MjModel`, as compiled.
        data: Its `mujoco.MjData`.
        objects: Python objects whose numeric attributes are part of the state, each with names to leave out.
    """

    def __init__(self, model: Any, data: Any, objects: Sequence[tuple[object, Sequence[str]]] = ()) -> None:
        self._mujoco = mujoco = import_mujoco()
        self.model, self.data = model, data
        self._attributes = [NumericAttributes(each, ignore) for each, ignore in objects]
        self._kind = mujoco.mjtState.mjSTATE_INTEGRATION
        self._physics_size = mujoco.mj_stateSize(model, self._kind)
        self._compiled = {name: values.copy() for name, values in _writable_arrays(model).items()}
        self._moved: list[str] = []

    def observe(self) -> None:
        """Note what of the model differs now from how it was compiled, and which attributes hold numbers."""
        for name, values in self._compiled.items():
            if name not in self._moved and not np.array_equal(getattr(self.model, name), values, equal_nan=True):
                self._moved.append(name)
        self._moved.sort()
        for attributes in self._attributes:
            attributes.observe()

    @property
    def moved(self) -> tuple[str, ...]:
        """Names of the model's arrays that are part of the state."""
        return tuple(self._moved)

    def moved_bodies(self) -> NDArray[np.intp]:
        """Which bodies' places in the model are not what they were when it was compiled."""
        moved = [(getattr(self.model, name) != self._compiled[name]).any(axis=1) for name in ("body_pos", "body_quat")]
        return np.flatnonzero(np.logical_or(*moved))

    @property
    def size(self) -> int:
        """Length of the vector."""
        moved = sum(self._compiled[name].size for name in self._moved)
        return int(self._physics_size + moved + sum(each.size for each in self._attributes))

    def restore_model(self) -> None:
        """Undo what resets wrote into the model."""
        for name in self._moved:
            getattr(self.model, name)[:] = self._compiled[name]

    def update_derived_quantities(self) -> None:
        """`mj_forward`, except that it leaves the solver's warm start alone, which is part of the state.

        Call it after every control step, so that a restored state and the one that was saved agree in what is
        computed from it, too.
        """
        warm_start = self.data.qacc_warmstart.copy()
        self._mujoco.mj_forward(self.model, self.data)
        self.data.qacc_warmstart[:] = warm_start

    def get(self) -> NDArray[np.float64]:
        """The vector (size,), float64."""
        physics = np.empty(self._physics_size)
        self._mujoco.mj_getState(self.model, self.data, physics, self._kind)
        moved = [getattr(self.model, name).ravel() for name in self._moved]
        return np.concatenate([physics, *moved, *(each.get() for each in self._attributes)], dtype=np.float64)

    def set(self, state: NDArray[np.float64]) -> None:
        """Restore what `get` returned; it continues bit-exactly.

        Raises:
            SimulationError: The vector has another length.
        """
        if np.shape(state) != (self.size,):
            raise SimulationError(f"this simulation's state has {self.size} numbers, got shape {np.shape(state)}")
        sizes = [self._physics_size, *(self._compiled[name].size for name in self._moved)]
        sizes += [each.size for each in self._attributes]
        physics, *rest = np.split(np.asarray(state, np.float64), np.cumsum(sizes)[:-1])
        for name, values in zip(self._moved, rest, strict=False):
            array = getattr(self.model, name)
            array[:] = values.reshape(array.shape)
        self._mujoco.mj_resetData(self.model, self.data)
        self._mujoco.mj_setState(self.model, self.data, physics, self._kind)
        self.update_derived_quantities()
        for attributes, values in zip(self._attributes, rest[len(self._moved) :], strict=True):
            attributes.set(values)

    def is_unstable(self) -> bool:
        """Whether MuJoCo has met NaN, infinite or huge numbers since the last `mj_resetData`."""
        return bool(instability_counters(self.data).any())

    def forget_instability(self) -> None:
        """Begin an episode: what was met before does not count."""
        instability_counters(self.data)[:] = 0


def _writable_arrays(model: Any) -> dict[str, NDArray[Any]]:
    """The arrays of numbers of a model that a reset might write to."""
    names = (name for name in dir(model) if not name.startswith(("_", *_NEVER_MOVED)))
    arrays = {name: getattr(model, name) for name in names}
    return {
        name: array
        for name, array in arrays.items()
        if isinstance(array, np.ndarray) and array.dtype.kind in "biuf" and array.flags.writeable and array.size
    }
