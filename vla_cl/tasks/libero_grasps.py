"""Where LIBERO's things can be taken from above.

There is no table of grips: a grip is looked for in the scene as it is. For some directions of the fingers, the scene is
cut into columns of a few millimetres (`libero_shapes`), and the hand is let down at each of them as deep as palm and
fingers find room, between neighbours, and beside or inside the thing itself. Where the pads then have enough of the
thing between them, and it is narrow enough, it can be taken: a can across, a box across its short side, a bowl or a mug
at its rim or its handle, a pan at its handle or its wall. Numbers of the hand are those of robosuite's Panda gripper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.libero.env import LiberoEnv
from vla_cl.tasks.libero_shapes import NOTHING, boxes_of, others
from vla_cl.tasks.skills import Graspable, Hand, SkillFailed

Vector = NDArray[np.float64]

_CELL = 0.005
_TURNS = 8  # directions of the fingers that are tried, in half a turn
_INNER, _OUTER, _FINGER_HALF = 0.034, 0.070, 0.013  # open fingers along and across the way they close, with some room
_TIP = 0.0125  # from the grip site down to the finger tips
_PALM_HALF = (0.108, 0.034)
_PALM_HEIGHT = 0.026  # from the grip site up to the palm
_ROOM = 0.003  # metres that the hand keeps from what is below it
_PAD = (-0.004, 0.012)  # the pads' lower and upper end above the grip site
_PAD_HALF = 0.008
_WIDEST = 0.070
_LEAST_OVERLAP = 0.004

_YAW_COST = 0.25  # a radian
_LEVER_COST = 5.0  # a metre away from the thing's middle
_TILT_COST = 25.0  # a metre that the sides in the pads are uneven by
_SHALLOW_COST = 40.0  # a metre that the pads have less of it than they could
_WIDE, _WIDE_COST = 0.06, 20.0
_SHIFT = 0.025  # metres off the middle between the fingers: the first that meets it pushes it there
_SHIFTED_COST, _SHIFT_COST = 1.0, 15.0
_BESIDE_COST = 0.3  # something else comes between the finger tips
_FAR, _FAR_COST = 0.65, 6.0  # metres from the robot's base: at 0.76 the arm is stretched out, and stuck
_BASE = "robot0_base"


@dataclass(frozen=True)
class Grip:
    """One way to take a thing: the place (3,), the direction (3,) in which the fingers close, the lower the better."""

    place: Vector
    closes_along: Vector
    cost: float


def graspable(hand: Hand, env: LiberoEnv, name: str, goal: Vector | None = None, hover: float = 0.07) -> Graspable:
    """How to take a thing, as it lies and stands now.

    Args:
        hand: The hand.
        env: The scene.
        name: The thing.
        goal: Where it is to be brought (2,), in metres: the hand must reach that far with this grip, too.
        hover: How far above it the hand comes to wait, in metres.

    Raises:
        SkillFailed: There is no room for the hand, or nothing that fits between the fingers.
    """
    here, base = env.position(name)[:2], env.data.body(_BASE).xpos[:2]
    ends = [here] if goal is None else [here, np.asarray(goal)]

    def cost(grip: Grip) -> float:
        radii = [float(np.linalg.norm(end + grip.place[:2] - here - base)) for end in ends]
        return grip.cost + _FAR_COST * sum(max(0.0, radius - _FAR) for radius in radii)

    best = min(grips(hand, env, name), key=cost, default=None)
    if best is None:
        raise SkillFailed(f"{name} cannot be taken from above as it is")
    position, rotation = env.position(name), env.rotation(name)
    x, y, z = rotation.T @ (best.place - position)
    along = rotation.T @ best.closes_along
    return Graspable(name, (x, y, z), closes_along=(tuple(map(float, along)),), hover=hover)  # type: ignore[arg-type]


def grips(hand: Hand, env: LiberoEnv, name: str) -> Iterator[Grip]:
    """All ways to take a thing that were found."""
    axes = env.rotation(name)
    level = axes[:, int(np.argmin(np.abs(axes[2])))]
    first = np.arctan2(level[1], level[0])
    for turn in range(_TURNS):
        angle = first + turn * np.pi / _TURNS
        yield from _Cut(hand, env, name, np.array([np.cos(angle), np.sin(angle)])).grips()


class _Cut:
    """The scene around a thing, cut into columns along and across one direction of the fingers."""

    def __init__(self, hand: Hand, env: LiberoEnv, name: str, along: Vector) -> None:
        self._along, self._across = along, np.array([-along[1], along[0]])
        thing = boxes_of(env, [name])
        low, high = thing.extent
        self._middle = (low + high) / 2
        radius = float(np.linalg.norm((high - low)[:2])) / 2
        self._s = _cells(radius + _PALM_HALF[0] + _CELL)
        self._t = _cells(radius + _PALM_HALF[1] + _CELL)
        points = self._points(self._s[:, None], self._t[None, :])
        reach = float(np.hypot(self._s[-1], self._t[-1]))
        lows, highs = thing.columns(points)
        self._lows, self._highs = lows, highs
        self._top = highs.max(axis=-1)
        around = others(env, name).near(self._middle[:2], reach)
        self._beside = np.where(np.isfinite(self._top), NOTHING, around.top(points))
        self._all = np.maximum(np.maximum(self._top, around.top(points)), NOTHING)
        self._yaw_cost = _YAW_COST * abs(hand.finger_yaw(np.array([*along, 0.0])))

    def grips(self) -> Iterator[Grip]:
        deepest = np.maximum(self._under_fingers() + _TIP, self._under_palm() - _PALM_HEIGHT) + _ROOM
        inside = _largest(self._top, _count(_SHIFT), axis=0) - deepest > _PAD[0] + _LEAST_OVERLAP
        for i, j in np.argwhere(inside):
            grip = self._pinch(int(i), int(j), float(deepest[i, j]))
            if grip is not None:
                yield grip

    def _under_fingers(self) -> Vector:
        """The highest height below either finger, for the hand above each column."""
        reach = np.arange(_count(_INNER), _count(_OUTER) + 1)
        wide = _largest(self._all, _count(_FINGER_HALF), axis=1)
        padded = np.pad(wide, ((reach[-1], reach[-1]), (0, 0)), constant_values=NOTHING)
        rows = np.arange(len(wide)) + reach[-1]
        both: Vector = np.max([padded[rows + sign * step] for sign in (-1, 1) for step in reach], axis=0)
        return both

    def _under_palm(self) -> Vector:
        return _largest(_largest(self._all, _count(_PALM_HALF[1]), axis=1), _count(_PALM_HALF[0]), axis=0)

    def _pinch(self, i: int, j: int, height: float) -> Grip | None:
        """What is between the pads of a hand above a column at a height, if it can be held."""
        between, pads = _count(_INNER), _count(_PAD_HALF)
        window = slice(i - between, i + between + 1), slice(j - pads, j + pads + 1)
        lows, highs = self._lows[window], self._highs[window]
        held = ((lows < height + _PAD[1]) & (highs > height + _PAD[0])).any(axis=-1)
        rows = held.any(axis=0)
        if not rows[pads] or rows.sum() < pads + 1:
            return None
        beside = float(self._beside[window].max()) - height  # what the fingers would close on first
        if beside > _PAD[0]:
            return None
        held = held[:, rows]
        left, right = held.argmax(axis=0), len(held) - 1 - held[::-1].argmax(axis=0)
        width = float(right.max() - left.min() + 1) * _CELL
        off = float(left.mean() + right.mean()) / 2 - between
        if width > _WIDEST or abs(off) * _CELL > _SHIFT:
            return None
        top = float(highs.max(axis=-1)[:, rows][held].max())
        overlap = min(top - height - _PAD[0], _PAD[1] - _PAD[0])
        if overlap < _LEAST_OVERLAP:
            return None
        shift = abs(off) * _CELL if abs(off) > 1.0 else 0.0
        s, t = self._s[i] + (0.0 if shift else off * _CELL), self._t[j]
        uneven = (float(left.std()) + float(right.std())) * _CELL
        cost = (
            self._yaw_cost
            + _LEVER_COST * float(np.hypot(s, t))
            + _TILT_COST * uneven
            + _SHALLOW_COST * (_PAD[1] - _PAD[0] - overlap)
            + _WIDE_COST * max(0.0, width - _WIDE)
            + (_SHIFTED_COST + _SHIFT_COST * shift if shift else 0.0)
            + (_BESIDE_COST if beside > -_TIP else 0.0)
        )
        place = np.array([*self._points(np.array(s), np.array(t)), height])
        return Grip(place, np.array([*self._along, 0.0]), cost)

    def _points(self, s: Vector, t: Vector) -> Vector:
        points: Vector = self._middle[:2] + s[..., None] * self._along + t[..., None] * self._across
        return points


def _cells(reach: float) -> Vector:
    """Middles of cells about 0, up to a reach."""
    return np.arange(-_count(reach), _count(reach) + 1) * _CELL


def _count(length: float) -> int:
    return round(length / _CELL)


def _largest(heights: Vector, reach: int, axis: int) -> Vector:
    """The largest within a number of cells along an axis."""
    from scipy.ndimage import maximum_filter1d

    largest: Vector = maximum_filter1d(heights, 2 * reach + 1, axis=axis, mode="constant", cval=NOTHING)
    return largest
