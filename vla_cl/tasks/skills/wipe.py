"""Wipe a table: press a flat tool on it and sweep over the dirt."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vla_cl.tasks.skills.hand import Hand
from vla_cl.tasks.skills.motion import UP, reach
from vla_cl.tasks.skills.plan import Plan

_PRESSURE_GAIN = 0.1  # metres of further depth for each metre that the tool is too high, a step


def wipe(
    hand: Hand,
    dirt: Callable[[], NDArray[np.float64]],
    *,
    depth: float = 0.0006,
    deepest: float = 0.02,
    hover: float = 0.05,
    speed: float = 1.0,
    timeout: int = 400,
) -> Plan[None]:
    """Sweep over what is left of the dirt, always to the nearest piece, pressing on the table.

    Args:
        hand: The hand, with a tool whose face is at the hand's position.
        dirt: What is left (K, 3), in metres, all on one level table.
        depth: How far below the dirt the tool's face is to be, in metres; the table is soft.
        deepest: Bound on how far below the hand is told to go to get there, in metres.
        hover: How high above the table it arrives, in metres.
        speed: Fraction of the largest speed while it wipes.
        timeout: Steps after which it stops.
    """
    if len(dirt()) == 0:
        return
    yield from reach(hand, lambda: _nearest(hand, dirt()) + hover * UP, tolerance=0.015)
    push = depth
    for _ in range(timeout):
        left = dirt()
        if len(left) == 0:
            return
        goal = _nearest(hand, left)
        push = float(np.clip(push + _PRESSURE_GAIN * (hand.position[2] - goal[2] + depth), 0.0, deepest))
        yield hand.toward(goal - push * UP, speed)


def _nearest(hand: Hand, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of points (K, 3), the one that is nearest to the hand, seen from above."""
    away = np.linalg.norm((points - hand.position)[:, :2], axis=1)
    nearest: NDArray[np.float64] = points[int(np.argmin(away))]
    return nearest
