"""The expert of every declared scene: for each step of the task, the skills that make it true."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.tabletop.env import TabletopEnv
from vla_cl.envs.tabletop.predicates import SIDE_GAP, holds
from vla_cl.envs.tabletop.scene import Condition
from vla_cl.envs.tabletop.world import TABLE_HEIGHT
from vla_cl.errors import ConfigurationError
from vla_cl.tasks.expert import EXPERTS
from vla_cl.tasks.skills import Graspable, Hand, Plan, SkillExpert, grasp, place
from vla_cl.tasks.skills.fixtures import grip_handle, let_go, press, push, slide, twist

Vector = NDArray[np.float64]

_TABLE = np.array([0.0, 0.0, TABLE_HEIGHT])
_OPEN_SHARE = 0.92  # of a drawer's way: open with something to spare
_TWIST = 1.3  # radians
_SIDE = 0.03  # metres beyond what "beside" asks for
_ROUND_GRIPS = 8  # ways to take a round thing that are tried
_HALF_OPEN = 0.05  # metres from between the open fingers to the outside of one
_FINGER = 0.015  # metres that a finger needs around it
_SPOTS = 5  # candidates along each edge of a surface that something is put on


def tabletop_plan(hand: Hand) -> Plan[None]:
    """Make the steps of the scene true one after the other, those that hold already left out."""
    env = cast(TabletopEnv, hand.env)
    for step in env.scene.steps:
        if not _holds(env, step):
            yield from _achieve(hand, env, step)


def _achieve(hand: Hand, env: TabletopEnv, step: Condition) -> Plan[None]:
    skill = _SKILLS.get(step.predicate)
    if skill is None or step.negated:
        raise ConfigurationError(
            f"no skill makes {step} true; name other `steps` in the scene, or write an expert of your own"
        )
    yield from skill(hand, env, *step.arguments)


def _holds(env: TabletopEnv, condition: Condition) -> bool:
    return holds(env, condition.predicate, condition.arguments, condition.negated)


# --- fixtures --------------------------------------------------------------------------------------------------


def _open(hand: Hand, env: TabletopEnv, drawer: str) -> Plan[None]:
    mechanism = env.item(drawer).mechanism
    assert mechanism is not None
    enough = mechanism.low + _OPEN_SHARE * (mechanism.high - mechanism.low)
    yield from _slide(hand, env, drawer, 1.0, lambda: env.joint(drawer) >= enough)


def _close(hand: Hand, env: TabletopEnv, drawer: str) -> Plan[None]:
    mechanism = env.item(drawer).mechanism
    assert mechanism is not None
    yield from _slide(hand, env, drawer, -1.0, lambda: env.joint(drawer) <= 0.5 * mechanism.undone)


def _slide(hand: Hand, env: TabletopEnv, drawer: str, sign: float, until: Callable[[], bool]) -> Plan[None]:
    mechanism = env.item(drawer).mechanism
    assert mechanism is not None
    way = sign * (env.pose(drawer)[1] @ np.array(mechanism.axis))
    handle = partial(_grip_point, env, drawer)
    yield from grip_handle(hand, handle, _grip_direction(env, drawer))
    yield from slide(hand, handle, way, until)
    yield from let_go(hand)


def _turn(hand: Hand, env: TabletopEnv, knob: str) -> Plan[None]:
    mechanism = env.item(knob).mechanism
    assert mechanism is not None
    bar = partial(_grip_point, env, knob)
    yield from grip_handle(hand, bar, _grip_direction(env, knob))
    onwards = -1.0 if hand.yaw > 0 else 1.0  # back through the hand's nominal attitude, away from the wrist's end
    yield from twist(hand, bar, onwards * _TWIST, lambda: abs(env.joint(knob)) >= mechanism.done + 0.05)
    yield from let_go(hand)


def _press(hand: Hand, env: TabletopEnv, button: str) -> Plan[None]:
    yield from press(hand, partial(_grip_point, env, button), lambda: holds(env, "pressed", (button,)))


# --- objects ---------------------------------------------------------------------------------------------------


def _put_on(hand: Hand, env: TabletopEnv, upper: str, lower: str) -> Plan[None]:
    surface = env.item(lower).support
    assert surface is not None
    if env.item(upper).grip is None:
        goal = partial(_point_of, env, lower, "", (*surface.centre[:2], 0.0))
        bounds = env.item(upper).bounds
        yield from push(
            hand,
            lambda: env.pose(upper)[0] + _TABLE,
            goal,
            bounds.half[0],
            lambda: bool(np.linalg.norm((goal() - env.pose(upper)[0] - _TABLE)[:2]) < 0.4 * min(surface.half[:2])),
            height=0.002,
        )
        return
    thing = _graspable(env, upper)
    yield from _grasp(hand, env, thing)
    spot = _free_spot(env, upper, lower, "", surface.centre, surface.half)
    height = -env.item(upper).bounds.bottom
    yield from place(hand, thing, partial(_point_of, env, lower, "", (*spot[:2], surface.centre[2] + height)))


def _put_in(hand: Hand, env: TabletopEnv, inner: str, outer: str) -> Plan[None]:
    holder = env.item(outer)
    space = holder.interior
    assert space is not None
    if holder.mechanism is not None and not holds(env, "open", (outer,)):
        yield from _open(hand, env, outer)
    thing = _graspable(env, inner)
    yield from _grasp(hand, env, thing)
    centre, half = np.array(space.centre), np.array(space.half)
    if holder.mechanism is not None:  # what is still under the cabinet cannot be reached from above
        way = np.array(holder.mechanism.axis)
        centre, half = centre + 0.35 * half * way, half * (1.0 - 0.5 * np.abs(way))
    spot = _free_spot(env, inner, outer, holder.interior_body, centre, half)
    height = space.bottom - env.item(inner).bounds.bottom + 0.008
    at = partial(_point_of, env, outer, holder.interior_body, (*spot[:2], height))
    headings: tuple[float, ...] = ()
    if holder.mechanism is not None:  # the hand is wide along the fingers: across the drawer it clears its front
        turn = hand.finger_yaw(_across(env, outer)) - hand.yaw
        headings = (thing.heading(hand) + turn,)
    yield from place(hand, thing, at, clearance=0.09, headings=headings)


def _put_beside(axis: int, sign: float, hand: Hand, env: TabletopEnv, thing: str, other: str) -> Plan[None]:
    distance = SIDE_GAP + _SIDE + env.item(thing).bounds.half[axis] + env.item(other).bounds.half[axis]
    offset = np.zeros(3)
    offset[axis] = sign * distance
    yield from _put_at(hand, env, thing, lambda: env.pose(other)[0] + offset)


def _put_near(hand: Hand, env: TabletopEnv, thing: str, other: str) -> Plan[None]:
    distance = env.item(thing).radius + env.item(other).radius + 0.035
    around = [distance * np.array([np.cos(a), np.sin(a), 0.0]) for a in np.arange(8) * np.pi / 4]
    middle = env.pose(other)[0]
    best = max(around, key=lambda offset: _room(env, middle + offset, thing, other) - 0.2 * abs(offset[1]))
    yield from _put_at(hand, env, thing, lambda: env.pose(other)[0] + best)


def _put_between(hand: Hand, env: TabletopEnv, thing: str, first: str, second: str) -> Plan[None]:
    yield from _put_at(hand, env, thing, lambda: (env.pose(first)[0] + env.pose(second)[0]) / 2)


def _put_at(hand: Hand, env: TabletopEnv, name: str, at: Callable[[], Vector]) -> Plan[None]:
    """Put something down on the table."""
    thing = _graspable(env, name)
    yield from _grasp(hand, env, thing)
    height = np.array([0.0, 0.0, TABLE_HEIGHT - env.item(name).bounds.bottom])
    yield from place(hand, thing, lambda: at() * np.array([1.0, 1.0, 0.0]) + height)


def _lift(hand: Hand, env: TabletopEnv, name: str) -> Plan[None]:
    yield from _grasp(hand, env, _graspable(env, name), lift=0.12)


_SKILLS: Mapping[str, Callable[..., Plan[None]]] = {
    "on": _put_on,
    "in": _put_in,
    "open": _open,
    "closed": _close,
    "turned": _turn,
    "pressed": _press,
    "left_of": partial(_put_beside, 1, -1.0),
    "right_of": partial(_put_beside, 1, 1.0),
    "behind": partial(_put_beside, 0, -1.0),
    "in_front_of": partial(_put_beside, 0, 1.0),
    "near": _put_near,
    "between": _put_between,
    "lifted": _lift,
}


# --- where things are ------------------------------------------------------------------------------------------


def _graspable(env: TabletopEnv, name: str) -> Graspable:
    """How a thing is taken: along those of its axes where both fingers find room beside it."""
    grip = env.item(name).grip
    if grip is None:
        raise ConfigurationError(f"{name!r} is too wide to be gripped; ask for something else of it")
    point, rotation = _point_of(env, name, "", grip.point) - _TABLE, env.pose(name)[1]
    turns = [grip.yaw + 2 * np.pi * k / (grip.fold or _ROUND_GRIPS) for k in range(grip.fold or _ROUND_GRIPS)]
    axes = [np.array([np.cos(turn), np.sin(turn), 0.0]) for turn in turns]
    room = [_finger_room(env, name, point, rotation @ axis) for axis in axes]
    enough = min(max(room), _FINGER)
    kept = [axis for axis, free in zip(axes, room, strict=True) if free >= enough]
    for drawer, item in env.items.items():  # the hand is wide along its fingers: it goes across a drawer
        if item.interior is not None and item.mechanism is not None and holds(env, "in", (name, drawer)):
            across = rotation.T @ _across(env, drawer)
            kept = [max(axes, key=lambda axis: abs(float(axis @ across)))]
    return Graspable(name, offset=grip.point, closes_along=tuple((float(x), float(y), float(z)) for x, y, z in kept))


def _finger_room(env: TabletopEnv, name: str, point: Vector, direction: Vector) -> float:
    """Metres from the tips of open fingers, about a point along a direction (3,), to whatever is that high."""
    tips = [point + sign * _HALF_OPEN * direction for sign in (-1.0, 1.0)]
    gaps = [1.0]
    for other, item in env.items.items():
        position, rotation = env.pose(other)
        if other == name or not item.solid or position[2] + item.bounds.top < point[2] - _FINGER:
            continue
        for tip in tips:
            offset = np.abs(rotation.T @ (tip - position) - np.array(item.bounds.centre)) - np.array(item.bounds.half)
            gaps.append(float(np.linalg.norm(np.maximum(offset[:2], 0.0))))
    return min(gaps)


def _across(env: TabletopEnv, drawer: str) -> Vector:
    """The level direction (3,) across a drawer's way."""
    mechanism = env.item(drawer).mechanism
    assert mechanism is not None
    way = env.pose(drawer)[1] @ np.array(mechanism.axis)
    return np.array([-way[1], way[0], 0.0])


def _grasp(hand: Hand, env: TabletopEnv, thing: Graspable, lift: float = 0.05) -> Plan[None]:
    yield from grasp(hand, thing, lift=lift)


def _grip_point(env: TabletopEnv, name: str) -> Vector:
    grip = env.item(name).grip
    assert grip is not None
    return _point_of(env, name, grip.body, grip.point)


def _grip_direction(env: TabletopEnv, name: str) -> Vector:
    grip = env.item(name).grip
    assert grip is not None
    direction: Vector = env.pose(name, grip.body)[1] @ np.array([np.cos(grip.yaw), np.sin(grip.yaw), 0.0])
    return direction


def _point_of(env: TabletopEnv, name: str, part: str, point: Sequence[float]) -> Vector:
    """A point (3,) of a thing's frame in the world's, in metres."""
    position, rotation = env.pose(name, part)
    in_world: Vector = position + rotation @ np.array(point) + _TABLE
    return in_world


def _free_spot(
    env: TabletopEnv,
    thing: str,
    holder: str,
    part: str,
    centre: Sequence[float] | Vector,
    half: Sequence[float] | Vector,
) -> Vector:
    """Where on a surface there is room for one more thing: as near to the middle as its neighbours allow."""
    position, rotation = env.pose(holder, part)
    reach = np.maximum(np.array(half[:2]) - env.item(thing).radius, 0.0)
    shares = np.linspace(-1.0, 1.0, _SPOTS)
    spots = [np.array([*(np.array(centre[:2]) + reach * (u, v)), centre[2]]) for u in shares for v in shares]

    def score(spot: Vector) -> float:
        room = _room(env, position + rotation @ spot, thing, holder)
        return min(room, 0.03) - 0.2 * float(np.linalg.norm((spot - np.array(centre))[:2]))

    return max(spots, key=score)


def _room(env: TabletopEnv, point: Vector, thing: str, holder: str) -> float:
    """Metres between a thing that stands at a point (3,) and its nearest neighbour, seen from above."""
    gaps = [
        float(np.linalg.norm((env.pose(other)[0] - point)[:2])) - env.item(other).radius - env.item(thing).radius
        for other, item in env.items.items()
        if other not in (thing, holder) and item.solid
    ]
    return min(gaps, default=1.0)


EXPERTS.register("tabletop", partial(SkillExpert, tabletop_plan))
