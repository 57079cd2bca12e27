"""The expert of LIBERO's tasks: for each condition of the goal, the skills that make it true.

Things are taken and put down wherever the scene leaves room (`libero_grasps`, `libero_places`); the fixtures that open,
close and turn have skills of their own (`libero_fixtures`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.libero.bddl import Condition
from vla_cl.envs.libero.env import LiberoEnv
from vla_cl.envs.libero.predicates import holds
from vla_cl.errors import ConfigurationError
from vla_cl.tasks.expert import EXPERTS
from vla_cl.tasks.libero_fixtures import close_part, open_part, push_onto, turn
from vla_cl.tasks.libero_grasps import graspable, grips
from vla_cl.tasks.libero_places import best_spot, clear_height, clear_height_of_hand, way_out
from vla_cl.tasks.libero_shapes import boxes_of
from vla_cl.tasks.skills import (
    Graspable,
    Hand,
    Plan,
    SkillExpert,
    SkillFailed,
    fixed,
    grasp,
    hold,
    place,
    reach,
    rise_to,
)

Vector = NDArray[np.float64]

_STAGES = {"open": 0, "turnon": 1, "turnoff": 1, "on": 2, "in": 2, "close": 3}
_FIXTURE_SKILLS: dict[str, Callable[[Hand, LiberoEnv, str], Plan[None]]] = {
    "open": open_part,
    "close": close_part,
    "turnon": partial(turn, on=True),
    "turnoff": partial(turn, on=False),
}
_EDGE = 0.012  # metres that a thing's middle keeps from the edge of a region
_CENTRED = 0.012  # metres that a thing may be off the middle of the one it is put on; 0.03 is allowed
_PRESSED = 0.002  # metres that a thing is let down further than it should go
_PATIENCE = 20  # steps after which a thing that cannot be taken is looked at anew
_ASIDE = 0.01  # metres that the step aside may be off
_APART = 0.75  # of half a region: where the outermost of several things on it are put
_RELEASED = 0.004  # metres above that at which it is let go
_SLACK = 0.01  # metres that a thing may be off sideways while it is let down
_CARRY = 0.03  # metres that a thing is carried above its place at least


def libero_plan(hand: Hand) -> Plan[None]:
    """Make the conditions of the goal true one after the other, those that hold already left out."""
    env = cast(LiberoEnv, hand.env)
    for condition in ordered(env.problem.goal):
        if not holds(env, condition):
            yield from _achieve(hand, env, condition)


def ordered(goal: tuple[Condition, ...]) -> list[Condition]:
    """Conditions in the order in which they are made true.

    What is opened or turned is so before things are moved, and what is closed is closed after; what something else is
    to stand on goes first.
    """
    conditions = sorted(goal, key=lambda condition: _STAGES.get(condition.predicate, 2))
    moved = [condition.arguments[0] for condition in conditions if _STAGES.get(condition.predicate) == 2]

    def depth(condition: Condition) -> int:
        below = [other for other in conditions if other.arguments[0] == condition.arguments[-1] and other != condition]
        return 1 + max((depth(other) for other in below if other.arguments[0] in moved), default=0)

    return sorted(conditions, key=lambda each: (_STAGES.get(each.predicate, 2), depth(each)))


def _achieve(hand: Hand, env: LiberoEnv, condition: Condition) -> Plan[None]:
    match condition.predicate, condition.arguments:
        case "on", (thing, below) if below in env.parts:
            yield from _put_on_region(hand, env, thing, below)
        case "on", (thing, below):
            yield from _put_on_thing(hand, env, thing, below)
        case "in", (thing, region):
            yield from _put_in(hand, env, thing, region)
        case predicate, (name,) if predicate in _STAGES:
            yield from _work(hand, env, predicate, name)
        case _:
            raise ConfigurationError(f"no skill makes {condition} true; write an expert of your own")


def _work(hand: Hand, env: LiberoEnv, predicate: str, name: str) -> Plan[None]:
    yield from _FIXTURE_SKILLS[predicate](hand, env, name)
    hand.attitude = 0.0  # a wrist that stays wound up swings the elbow out on the way to the next thing


def _put_on_thing(hand: Hand, env: LiberoEnv, thing: str, below: str) -> Plan[None]:
    """Onto the middle of something that may have been moved."""
    held = yield from _take(hand, env, thing, env.position(below)[:2])
    yield from _put(hand, env, held, env.position(below)[:2], np.full(2, _CENTRED))


def _put_on_region(hand: Hand, env: LiberoEnv, thing: str, region: str) -> Plan[None]:
    position, rotation = env.site_pose(region)
    half = np.maximum(np.abs(rotation) @ env.parts[region].size - _EDGE, 0.0)
    centre, half = _share(env, thing, region, position, half)
    if not env.parts[region].parent and next(grips(hand, env, thing), None) is None:  # too flat to be taken
        yield from push_onto(hand, env, thing, region)
        return
    held = yield from _take(hand, env, thing, centre[:2])
    yield from _put(hand, env, held, centre[:2], half[:2])


def _share(env: LiberoEnv, thing: str, region: str, centre: Vector, half: Vector) -> tuple[Vector, Vector]:
    """Middle and half extents (3,) of what a thing gets of a region that several are put on, side by side."""
    guests = [condition.arguments[0] for condition in env.problem.goal if condition.arguments[1:] == (region,)]
    if len(guests) < 2:
        return centre, half
    low, high = boxes_of(env, [thing]).extent
    axis = int(np.argmin((high - low)[:2]))
    places = np.linspace(-_APART, _APART, len(guests)) * half[axis]
    shift, extent = np.zeros(3), half.copy()
    shift[axis], extent[axis] = places[guests.index(thing)], (1.0 - _APART) * half[axis]
    return centre + shift, extent


def _put_in(hand: Hand, env: LiberoEnv, thing: str, region: str) -> Plan[None]:
    if env.kind(region).open is not None:  # it is in something that can be shut
        lid = region if env.joints_of(region) else env.parts[region].parent
        if not holds(env, Condition("open", (lid,))):
            yield from _work(hand, env, "open", lid)
    position, rotation = env.site_pose(region)
    held = yield from _take(hand, env, thing, position[:2])
    extent = np.abs(rotation @ env.parts[region].size)
    half = np.maximum(extent - _EDGE, 0.0)
    yield from _put(hand, env, held, position[:2], half[:2], ceiling=float(position[2] + extent[2]))


def _take(hand: Hand, env: LiberoEnv, thing: str, goal: Vector) -> Plan[Graspable]:
    try:
        grip = graspable(hand, env, thing, goal)
    except SkillFailed:
        yield from hold(hand, _PATIENCE)  # it may still be rolling
        raise
    yield from rise_to(hand, clear_height_of_hand(env, grip.place(hand)))
    yield from grasp(hand, grip, attempts=1)
    return grip


def _put(
    hand: Hand, env: LiberoEnv, held: Graspable, centre: Vector, half: Vector, ceiling: float = np.inf
) -> Plan[None]:
    step = way_out(env, held.name)
    if step.any():
        yield from reach(hand, fixed(hand.position + step), tolerance=_ASIDE)
    spot = best_spot(hand, env, held.name, centre, half, ceiling)
    goal = spot.point - [0.0, 0.0, _PRESSED]
    top = max(float(goal[2]), float(env.position(held.name)[2]))
    clearance = max(_CARRY, clear_height(env, held.name, goal) - top)
    headings = (held.heading(hand) + spot.turn,) if spot.turn else ()
    yield from place(
        hand, held, fixed(goal), headings=headings, clearance=clearance, release_within=_RELEASED, slack=_SLACK
    )


EXPERTS.register("libero", partial(SkillExpert, libero_plan))
