"""What an expert does with LIBERO's fixtures: drawers, the microwave's door, the stove's knob, and plates that are pushed.

Every skill begins from free space, wherever the hand is, and leaves it in free space above what it worked.
"""

from __future__ import annotations

import numpy as np

from vla_cl.envs.libero.bddl import Condition
from vla_cl.envs.libero.env import LiberoEnv
from vla_cl.envs.libero.predicates import holds
from vla_cl.tasks.libero_doors import close_door, open_door
from vla_cl.tasks.libero_drawers import close_drawer, open_drawer
from vla_cl.tasks.libero_handles import handle_of, joint_of
from vla_cl.tasks.skills import Hand, Plan, close_fingers, descend, travel
from vla_cl.tasks.skills.fixtures import let_go, push, twist
from vla_cl.tasks.skills.motion import UP

_GRIP_DEPTH = 0.018  # metres below a knob's top
_HOVER = 0.06
_SPARE = 0.1  # radians further than a knob must go to be on


def open_part(hand: Hand, env: LiberoEnv, name: str) -> Plan[None]:
    """Open a drawer ("wooden_cabinet_1_top_region") or a door ("microwave_1").

    Args:
        hand: The hand.
        env: The environment it acts in.
        name: What to open: a thing, or a region of one, whose joint slides or turns.

    Raises:
        ConfigurationError: It does not open.
        SkillFailed: It did not open.
    """
    yield from (open_drawer if _slides(env, name) else open_door)(hand, env, name)


def close_part(hand: Hand, env: LiberoEnv, name: str) -> Plan[None]:
    """Close a drawer or a door; as `open_part`."""
    yield from (close_drawer if _slides(env, name) else close_door)(hand, env, name)


def turn(hand: Hand, env: LiberoEnv, name: str, on: bool) -> Plan[None]:
    """Turn something on or off by its knob, taken from above.

    Args:
        hand: The hand.
        env: The environment it acts in.
        name: The thing ("flat_stove_1").
        on: Whether it is to be on afterwards.

    Raises:
        SkillFailed: The knob did not turn far enough.
    """
    joint, kind = joint_of(env, name), env.kind(name)
    anchor, axis = env.joint_axis(joint)
    bar = handle_of(env, joint, axis)
    grip = lambda: anchor + (float((bar.centre() - anchor) @ axis) + bar.half(axis) - _GRIP_DEPTH) * axis  # noqa: E731
    across = bar.thin_direction(axis)
    assert kind.on is not None and kind.off is not None
    present = env.joint(joint)
    goal = min(kind.on) + _SPARE if on else max(kind.off) - _SPARE
    hand.closed = False
    yield from travel(hand, lambda: grip() + _HOVER * UP, attitude=hand.finger_yaw(across))
    yield from descend(hand, grip)
    yield from close_fingers(hand)
    far_enough = (lambda: env.joint(joint) >= goal) if on else (lambda: kind.is_off(env.joint(joint)))
    yield from twist(hand, grip, float(axis[2]) * (goal - present) * 1.3, far_enough)
    yield from let_go(hand)


def push_onto(hand: Hand, env: LiberoEnv, thing: str, region: str) -> Plan[None]:
    """Push a flat thing over the table to a region.

    Args:
        hand: The hand.
        env: The environment it acts in.
        thing: What to push ("plate_1").
        region: Where it is to lie.

    Raises:
        SkillFailed: It never got there.
    """
    there = Condition("on", (thing, region))
    yield from push(
        hand,
        lambda: env.position(thing),
        lambda: env.site_pose(region)[0],
        radius=float(env.raw.get_object(thing).horizontal_radius),
        until=lambda: holds(env, there),
        height=0.01,
    )


def _slides(env: LiberoEnv, name: str) -> bool:
    slide_joint = 2  # mjJNT_SLIDE
    return int(env.model.joint(joint_of(env, name)).type[0]) == slide_joint
