"""Turn what is held about an axis: a door about its hinge, a handle about its spindle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vla_cl.tasks.skills.hand import Hand, rotation_about
from vla_cl.tasks.skills.plan import Condition, Plan, SkillFailed

Axis = Callable[[], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""An axis now: a point on it (3,) in metres, and its direction, a unit vector (3,)."""


def swing(
    hand: Hand,
    axis: Axis,
    sign: float,
    until: Condition,
    *,
    along: bool = True,
    ahead: float = 0.05,
    timeout: int = 100,
) -> Plan[None]:
    """Lead the hand, and what it holds, on a circle about an axis.

    Args:
        hand: The hand, which holds something that turns about the axis.
        axis: Where the axis is now.
        sign: 1 or -1: the sense of the turn, by the right-hand rule.
        until: Whether it has been turned far enough.
        along: Whether the hand turns with what it holds, or lets it pivot between the fingers.
        ahead: How far along the circle the hand is drawn, in metres: how hard it pulls.
        timeout: Steps after which it has failed.

    Raises:
        SkillFailed: It is not turned far enough in time.
    """
    anchor, direction = axis()
    radius = _radius(hand.position - anchor, direction)
    start, held = hand.position - anchor, hand.rotation
    for _ in range(timeout):
        if until():
            return
        anchor, direction = axis()
        arm = hand.position - anchor
        outward = arm - arm @ direction * direction
        outward *= radius / max(float(np.linalg.norm(outward)), 1e-6)
        level = start @ direction * direction
        goal = anchor + level + rotation_about(direction, sign * ahead / radius) @ outward
        if along:
            hand.attitude = rotation_about(direction, _turned(start, arm, direction)) @ held
        yield hand.toward(goal)
    raise SkillFailed("it does not turn any further")


def _radius(arm: NDArray[np.float64], direction: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(arm - arm @ direction * direction))


def _turned(start: NDArray[np.float64], arm: NDArray[np.float64], direction: NDArray[np.float64]) -> float:
    """The angle about `direction` from one arm (3,) to another, in (-pi, pi]."""
    normal = np.cross(direction, start)
    across = start - start @ direction * direction
    return float(np.arctan2(arm @ normal, arm @ across))
