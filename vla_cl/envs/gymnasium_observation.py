"""Parts of a foreign environment's observation, named by text: "observation[0:3]", "robot/joints", "[4:]"."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.errors import ConfigurationError

_PART = re.compile(r"(?P<path>[^\[\]]*)(\[(?P<start>\d*):(?P<stop>\d*)\])?")


class VectorSelection:
    """Takes some numbers out of an observation, always the same ones.

    Args:
        label: What is selected, for messages.
        parts: Paths of keys, joined by "/", each with an optional range; empty takes every array of at most one
            dimension, keys in alphabetical order.
        example: An observation.

    Raises:
        ConfigurationError: A part is malformed, or is not in the example.
    """

    def __init__(self, label: str, parts: Sequence[str], example: Any) -> None:
        if isinstance(parts, str):
            raise ConfigurationError(f"{label} must be a list of parts, got {parts!r}")
        self._label = label
        chosen = list(parts) or [path for path, value in _leaves(example) if np.ndim(value) <= 1]
        self._parts = [self._parsed(part) for part in chosen]
        if not self._parts or not len(self(example)):
            raise ConfigurationError(f"{label} is empty: the observation holds no vector; name one of its arrays")

    def __call__(self, observation: Any) -> NDArray[np.float64]:
        """The numbers (D,), float64, in a new array."""
        values = [
            np.ravel(value_at(self._label, observation, path)).astype(np.float64)[kept] for path, kept in self._parts
        ]
        return np.concatenate(values)

    def _parsed(self, part: str) -> tuple[str, slice]:
        match = _PART.fullmatch(part)
        if match is None:
            raise ConfigurationError(f"{self._label} {part!r} is malformed; write key, key/key or key[0:3]")
        start, stop = match["start"], match["stop"]
        return match["path"], slice(int(start) if start else None, int(stop) if stop else None)


def value_at(label: str, observation: Any, path: str) -> NDArray[Any]:
    """The array at a path of keys, the observation itself at "".

    Raises:
        ConfigurationError: There is none.
    """
    value = observation
    for key in filter(None, path.split("/")):
        if not isinstance(value, Mapping) or key not in value:
            known = ", ".join(repr(known) for known, _ in _leaves(observation))
            raise ConfigurationError(f"{label} {path!r} is not in the observation; it holds {known}")
        value = value[key]
    if isinstance(value, Mapping):
        raise ConfigurationError(f"{label} {path!r} is a dictionary; name one of {', '.join(map(repr, value))} in it")
    return np.asarray(value)


def image_at(label: str, observation: Any, path: str) -> NDArray[np.uint8]:
    """The image (H, W, 3) uint8 at a path of keys; (3, H, W) is turned.

    Raises:
        ConfigurationError: There is none.
    """
    value = value_at(f"{label}: camera", observation, path)
    if value.ndim == 3 and value.shape[0] == 3 and value.shape[2] != 3:
        value = np.moveaxis(value, 0, 2)
    if value.ndim != 3 or value.shape[2] != 3 or value.dtype != np.uint8:
        raise ConfigurationError(f"{label}: {path!r} is no (H, W, 3) uint8 image but {value.shape} {value.dtype}")
    return value


def _leaves(observation: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Every array of an observation with its path, keys in alphabetical order."""
    if not isinstance(observation, Mapping):
        return [(prefix, observation)]
    return [
        leaf
        for key in sorted(observation)
        for leaf in _leaves(observation[key], f"{prefix}/{key}" if prefix else str(key))
    ]
