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
from vla_cl.tasks.libero_handles import joint_of
from vla_cl.tasks.libero_knobs import turn
from vla_cl.tasks.skills import Hand, Plan
from vla_cl.tasks.skills.fixtures import tow

__all__ = ["close_part", "open_part", "push_onto", "turn"]

_LEAD, _TOW_HEIGHT = 0.02, 0.006  # metres: finger tips in a plate, on its floor, against its rim


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
    yield from tow(
        hand,
        lambda: env.position(thing),
        lambda: env.site_pose(region)[0],
        lead=_LEAD,
        until=lambda: holds(env, there),
        height=_TOW_HEIGHT,
    )


def _slides(env: LiberoEnv, name: str) -> bool:
    slide_joint = 2  # mjJNT_SLIDE
    return int(env.model.joint(joint_of(env, name)).type[0]) == slide_joint
