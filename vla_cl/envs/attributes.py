"""The numbers that a Python object keeps in its attributes, as one flat vector."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_cl.errors import SimulationError


class _Slot(NamedTuple):
    """Where one attribute lies in the vector, and what it looks like."""

    size: int
    example: Any


class NumericAttributes:
    """Saves and restores the numeric attributes of one object: booleans, numbers, arrays, lists of numbers.

    Simulators keep part of an episode's state in Python (targets, initial object positions, latched flags). Which
    attributes those are differs from task to task, so they are found by looking: `observe` notes what the object
    holds, and whatever was numeric at any of these moments becomes part of the vector. Arrays whose memory belongs
    to the simulator are left out, because they follow its own state. `None` is stored as NaN.

    Args:
        target: The object.
        ignore: Names of attributes to leave out.
    """

    def __init__(self, target: object, ignore: Collection[str] = ()) -> None:
        self._target = target
        self._ignore = frozenset(ignore)
        self._slots: dict[str, _Slot] = {}

    def observe(self) -> None:
        """Note the attributes that hold numbers now."""
        for name, value in vars(self._target).items():
            if name not in self._ignore and _is_numeric(value) and not is_foreign_memory(value):
                self._slots.setdefault(name, _Slot(int(np.size(value)), copy.deepcopy(value)))
        self._slots = dict(sorted(self._slots.items()))

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(slot.size for slot in self._slots.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes in the vector, in order."""
        return tuple(self._slots)

    def get(self) -> NDArray[np.float64]:
        """The vector (size,), float64.

        Raises:
            SimulationError: An attribute has changed its size since it was observed.
        """
        vector = np.full(self.size, np.nan)
        start = 0
        attributes = vars(self._target)
        for name, slot in self._slots.items():
            value = attributes.get(name)
            if value is not None:
                if np.size(value) != slot.size:
                    raise SimulationError(f"attribute {name!r} has {np.size(value)} numbers, expected {slot.size}")
                vector[start : start + slot.size] = np.ravel(value)
            start += slot.size
        return vector

    def set(self, vector: NDArray[np.float64]) -> None:
        """Restore what `get` returned, each attribute with its own type."""
        start = 0
        for name, slot in self._slots.items():
            setattr(self._target, name, _like(slot.example, vector[start : start + slot.size]))
            start += slot.size


class PristineAttributes:
    """Puts an object's attributes back to what they were when this was built, as if nothing had happened since.

    Arrays, lists and dictionaries are copied, other values are kept by reference. Arrays in the simulator's memory
    are kept as the views that they are.
    """

    def __init__(self, target: object) -> None:
        self._target = target
        self._values = _copy_containers(vars(target))

    def restore(self) -> None:
        """Undo every change of attributes since construction, new attributes included."""
        attributes = vars(self._target)
        attributes.clear()
        attributes.update(_copy_containers(self._values))


def is_foreign_memory(value: object) -> bool:
    """Whether `value` is an array over memory that no numpy array owns, such as MuJoCo's."""
    if not isinstance(value, np.ndarray):
        return False
    while isinstance(value.base, np.ndarray):
        value = value.base
    return value.base is not None


def _copy_containers(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: copy.deepcopy(value)
        if isinstance(value, (np.ndarray, list, dict)) and not is_foreign_memory(value)
        else value
        for name, value in attributes.items()
    }


def _is_numeric(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(item, (int, float, np.number)) for item in value)
    return isinstance(value, (bool, int, float, np.bool_, np.number))


def _like(example: Any, numbers: NDArray[np.float64]) -> Any:
    """`numbers` in the type and shape of `example`; all NaN is None, unless the example is NaN too."""
    if isinstance(example, np.ndarray):
        if example.size and np.isnan(numbers).all():
            return None
        return numbers.reshape(example.shape).astype(example.dtype)
    if isinstance(example, (list, tuple)):
        return type(example)(type(item)(number) for item, number in zip(example, numbers, strict=True))
    return None if np.isnan(numbers[0]) else type(example)(numbers[0])
