"""What an expert does with LIBERO's fixtures: drawers, the microwave's door, the stove's knob; and plates, pushed.

Every skill begins from free space, wherever the hand is, and leaves it in free space above what it worked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.libero.bddl import Condition
from vla_cl.envs.libero.env import LiberoEnv
from vla_cl.envs.libero.predicates import holds
from vla_cl.tasks.libero_doors import close_door, open_door
from vla_cl.tasks.libero_drawers import close_drawer, open_drawer
from vla_cl.tasks.libero_handles import joint_of
from vla_cl.tasks.libero_knobs import turn
from vla_cl.tasks.skills import Hand, Plan
from vla_cl.tasks.skills.fixtures import tow
from vla_cl.tasks.skills.motion import UP

Vector = NDArray[np.float64]

__all__ = ["close_part", "open_part", "push_onto", "turn"]

_CORNER = 0.03  # metres from a corner of the way at which it is cut
_ROOM, _ROOM_WORTH = 0.1, 1.0  # metres to the middles of other things; metres of detour that a metre more is worth
_LEAD, _TOW_HEIGHT = 0.02, 0.003  # metres: finger tips in a plate, on its floor, against its rim


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
    corners = _way_round(env, thing, env.site_pose(region)[0], env.parts[region].size)

    def goal() -> Vector:
        if len(corners) > 1 and np.linalg.norm((corners[0] - env.position(thing))[:2]) < _CORNER:
            corners.pop(0)
        return corners[0]

    yield from tow(
        hand,
        lambda: env.position(thing),
        goal,
        lead=_LEAD,
        until=lambda: holds(env, there),
        height=_TOW_HEIGHT,
    )


def _way_round(env: LiberoEnv, thing: str, middle: Vector, size: Vector) -> list[Vector]:
    """Corners of a way (at most two) over the table to a place in a region that stays clear of other things."""
    start = env.position(thing)
    others = [env.position(name) for name in env.objects if name != thing]
    shares = np.linspace(-0.6, 0.6, 5)
    ends = [middle + size * (u, v, 0.0) for u in shares for v in shares]
    level = (middle - start) * (1.0, 1.0, 0.0)
    bends = [start + 0.5 * level + share * np.cross(UP, level) for share in np.linspace(-0.6, 0.6, 9)]

    def cost(way: list[Vector]) -> float:
        bend, end = way
        room = min(min(_distance(other, start, bend), _distance(other, bend, end)) for other in others)
        length = float(np.linalg.norm(bend - start) + np.linalg.norm(end - bend))
        return length - _ROOM_WORTH * min(room, _ROOM)

    return min(([bend, end] for bend in bends for end in ends), key=cost)


def _distance(point: Vector, start: Vector, end: Vector) -> float:
    """From a point (3,) to a segment, seen from above, in metres."""
    way, offset = (end - start)[:2], (point - start)[:2]
    share = np.clip(offset @ way / max(float(way @ way), 1e-9), 0.0, 1.0)
    return float(np.linalg.norm(offset - share * way))


def _slides(env: LiberoEnv, name: str) -> bool:
    slide_joint = 2  # mjJNT_SLIDE
    return int(env.model.joint(joint_of(env, name)).type[0]) == slide_joint
