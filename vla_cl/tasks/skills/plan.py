"""What a plan is: a generator of actions that looks at the world anew at every step."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

Plan: TypeAlias = Generator[NDArray[np.float32], None, T]
"""Yields the action (7,) for the present state; whoever runs it advances the environment before asking for the next.
What it returns is the skill's answer, so that plans compose: `grasped = yield from ...`."""

Point: TypeAlias = Callable[[], NDArray[np.float64]]
"""Where something is now (3,), in metres."""

Condition: TypeAlias = Callable[[], bool]
"""Whether something is the case now."""


class SkillFailed(Exception):
    """A skill has given up: a grasp slipped, a handle was lost. A `SkillExpert` begins the plan anew."""


def fixed(point: NDArray[np.float64]) -> Point:
    """A point that does not move."""
    held = np.array(point, dtype=np.float64)
    return lambda: held
