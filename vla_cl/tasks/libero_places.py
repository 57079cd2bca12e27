"""Where a thing in the hand can be put down: how deep it goes at each spot, before it or the hand meets something.

Like grips, places are looked for in the scene as it is, cut into columns: a thing and the hand that holds it are let
down at each spot of a region, turned this way and that, onto what stands there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.libero.env import LiberoEnv
from vla_cl.tasks.libero_shapes import Boxes, boxes_of, hand_boxes, others
from vla_cl.tasks.skills import Hand

Vector = NDArray[np.float64]

_CELL = 0.005
_SPOTS = 9  # along each edge of a region
_TURNS = np.array([0.0, 0.5, -0.5, 1.0, -1.0]) * np.pi
_LARGEST_YAW = 2.0  # radians from the nominal start, either way
_HIGH_COST, _OFF_COST, _YAW_COST = 20.0, 1.0, 0.03  # a metre above the deepest, a metre off the middle, a radian
_DROP_COST = 4.0  # a metre that it falls, where the hand meets something first
_LEVEL = 0.004  # metres above the deepest that do not matter
_STEPS = np.linspace(0.0, 0.12, 7)  # metres that a thing is moved aside before it is lifted
_SIDE_ROOM = 0.012  # metres beside it that it keeps from what is above
_UNDER = 0.02  # metres: what is that far above the underside of a thing is beside or above it
_WAY_ROOM = 0.02  # metres above what is crossed
_ALONG, _ACROSS = 24, 5  # lines that the way is cut by


@dataclass(frozen=True)
class Spot:
    """Where a thing's body is to be (3,) when it is let go, in metres, and how far it is turned till then."""

    point: Vector
    turn: float
    cost: float


def best_spot(hand: Hand, env: LiberoEnv, thing: str, centre: Vector, half: Vector, ceiling: float = np.inf) -> Spot:
    """The spot of a rectangle where a held thing goes deepest, nearest to the middle.

    Args:
        hand: The hand, which holds the thing.
        env: The scene.
        thing: What it holds.
        centre: Middle of the rectangle (2,), in metres.
        half: Half its edges along the world's axes (2,).
        ceiling: Height in metres above which the thing's body must not come to rest, if there is a choice.
    """
    body = env.position(thing)
    own = boxes_of(env, [thing])
    held = own + hand_boxes(env)
    offsets = [np.linspace(-1.0, 1.0, _SPOTS) * edge if edge > 1e-6 else np.zeros(1) for edge in half]
    spots = np.stack(np.meshgrid(*offsets, indexing="ij"), axis=-1).reshape(-1, 2)
    reach = max(float(np.linalg.norm((corner - body)[:2])) for corner in held.extent) + _CELL
    around = others(env, thing).near(centre, reach + float(np.linalg.norm(half)))
    ground = _HeightMap(around, centre, reach + float(np.max(half)) + _CELL)
    tried = []
    for turn in _TURNS:
        if abs(hand.yaw + turn) > _LARGEST_YAW:
            continue
        alone = _rests(ground, own.turned(body, turn), body, reach, centre + spots)
        both = np.maximum(alone, _rests(ground, hand_boxes(env).turned(body, turn), body, reach, centre + spots))
        tried += [(spot, float(turn), low, high) for spot, low, high in zip(spots, alone, both, strict=True)]
    deepest = min(height for _, _, height, _ in tried)

    def cost(spot: Vector, turn: float, height: float, released: float) -> float:
        return float(
            _HIGH_COST * max(0.0, height - deepest - _LEVEL)
            + _DROP_COST * max(0.0, released - height)
            + _OFF_COST * float(np.linalg.norm(spot))
            + _YAW_COST * (abs(hand.yaw + turn) + abs(turn))
            + (100.0 if height > ceiling else 0.0)
        )

    best = min(tried, key=lambda each: cost(*each))
    spot, turn, _, released = best
    return Spot(np.array([*(centre + spot), released]), turn, cost(*best))


def way_out(env: LiberoEnv, thing: str) -> Vector:
    """The shortest level step (3,) in metres after which nothing is above a thing that is to be lifted."""
    body, own = env.position(thing), boxes_of(env, [thing])
    reach = max(float(np.linalg.norm((corner - body)[:2])) for corner in own.extent) + _CELL
    ground = _HeightMap(others(env, thing), body[:2], reach + _SIDE_ROOM + float(_STEPS[-1]))
    points, depth = _underside(Boxes(own.centres, own.rotations, own.halves + _SIDE_ROOM), body, reach + _SIDE_ROOM)
    lowest = body[2] + depth + _SIDE_ROOM + _UNDER
    angles = np.arange(16) * np.pi / 8
    ways = [np.array([np.cos(angle), np.sin(angle)]) for angle in angles]
    for step in (length * way for length in _STEPS for way in ways):
        if (ground.at(body[:2] + step + points) < lowest).all():
            return np.array([*step, 0.0])
    return np.zeros(3)


def clear_height(env: LiberoEnv, thing: str, goal: Vector) -> float:
    """The height in metres at which a thing's body passes over everything between where it is and a point (3,)."""
    body = env.position(thing)
    moving = boxes_of(env, [thing]) + hand_boxes(env)
    low, high = boxes_of(env, [thing]).extent
    depth = float(body[2] - moving.extent[0][2])
    return _top_between(others(env, thing), body, goal, high - low) + depth + _WAY_ROOM


def clear_height_of_hand(env: LiberoEnv, goal: Vector) -> float:
    """The height in metres at which the grip site passes over everything on its way to a point (3,)."""
    here = env.gripper.position
    low, high = hand_boxes(env).extent
    return _top_between(others(env), here, goal, high - low) + float(here[2] - low[2]) + _WAY_ROOM


def _top_between(boxes: Boxes, start: Vector, goal: Vector, extent: Vector) -> float:
    way = (goal - start)[:2]
    across = np.array([-way[1], way[0]]) / max(float(np.linalg.norm(way)), 1e-6)
    half = float(np.linalg.norm(extent[:2])) / 2
    along = np.linspace(0.0, 1.0, _ALONG)[:, None, None] * way
    points = start[:2] + along + np.linspace(-half, half, _ACROSS)[None, :, None] * across
    return float(boxes.top(points).max())


class _HeightMap:
    """Heights of what stands around a point, looked up by the nearest cell."""

    def __init__(self, boxes: Boxes, centre: Vector, reach: float) -> None:
        count = int(np.ceil(reach / _CELL)) + 1
        steps = np.arange(-count, count + 1) * _CELL
        self._corner = centre - count * _CELL
        self._heights = boxes.top(centre + np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1))

    def at(self, points: Vector) -> Vector:
        """Heights at points (K, 2)."""
        cells = np.rint((points - self._corner) / _CELL).astype(np.intp)
        last = np.array(self._heights.shape) - 1
        cells = np.clip(cells, 0, last)
        heights: Vector = self._heights[cells[:, 0], cells[:, 1]]
        return heights


def _rests(ground: _HeightMap, boxes: Boxes, body: Vector, reach: float, spots: Vector) -> Vector:
    """Heights (K,) of a body above spots (K, 2) at which boxes that move with it meet the ground."""
    points, depth = _underside(boxes, body, reach)
    return np.array([float((ground.at(spot + points) - depth).max()) for spot in spots])


def _underside(boxes: Boxes, body: Vector, reach: float) -> tuple[Vector, Vector]:
    """Where boxes are, as offsets (K, 2) from a body, and their lowest heights (K,) above it."""
    steps = np.arange(-reach, reach + _CELL, _CELL)
    offsets = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    lowest = boxes.bottom(body[:2] + offsets)
    there = np.isfinite(lowest)
    return offsets[there], lowest[there] - body[2]
