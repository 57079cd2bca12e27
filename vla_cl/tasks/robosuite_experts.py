"""Scripted experts for robosuite's own tasks, each a recipe of skills. robosuite publishes none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vla_cl.tasks.expert import EXPERTS
from vla_cl.tasks.skills import (
    Y_AXIS,
    Graspable,
    Hand,
    Plan,
    SkillExpert,
    close_fingers,
    descend,
    grasp,
    place,
    reach,
    retreat,
    swing,
    wipe,
)

CUBE = Graspable("cube")
UPPER_CUBE = Graspable("cubeA")
GROCERIES = {
    "can": Graspable("Can", offset=(0.0, 0.0, 0.02), closes_along=()),
    "milk": Graspable("Milk", offset=(0.0, 0.0, 0.03), hover=0.12),
    "bread": Graspable("Bread"),
    "cereal": Graspable("Cereal", offset=(0.0, 0.0, 0.04), closes_along=(Y_AXIS,), hover=0.12),
}
SQUARE_NUT = Graspable("SquareNut", offset=(0.06, 0.0, 0.0), closes_along=(Y_AXIS,), hover=0.08)
ROUND_NUT = Graspable("RoundNut", offset=(0.06, 0.0, 0.0), closes_along=(Y_AXIS,), hover=0.08)
"""What is grasped, and where. Both nuts are taken by their handle."""

_STACKED = np.array([0.0, 0.0, 0.045])  # half of either cube
_NEARER = {"can": np.array([-0.05, -0.06, 0.0])}  # the middle of its compartment is out of Panda's reach
_OVER_THE_WALL = 0.12  # between the two bins
_OVER_THE_PEG = 0.13
_DOWN_THE_PEG = np.array([0.0, 0.0, -0.02])  # from the middle of the peg
_HANDLE_INWARDS = (np.pi, np.pi / 2, -np.pi / 2)  # a nut's handle on the far side would be out of reach
_UNLATCHED, _OPENED = 1.25, 0.32  # radians; the bolt is free from 1.2 on, and the task asks for 0.3
_UP = np.array([0.0, 0.0, 1.0])


def lift(hand: Hand) -> Plan[None]:
    """Take the cube and raise it."""
    yield from grasp(hand, CUBE)
    yield from retreat(hand, 0.1)


def stack(hand: Hand) -> Plan[None]:
    """Put the red cube on the green one."""
    yield from grasp(hand, UPPER_CUBE)
    yield from place(hand, UPPER_CUBE, lambda: hand.env.position("cubeB") + _STACKED)


def pick_place(grocery: str, hand: Hand) -> Plan[None]:
    """Carry something over the wall between the bins, to where its outline is drawn."""
    thing = GROCERIES[grocery]
    nearer = _NEARER.get(grocery, np.zeros(3))
    yield from grasp(hand, thing)
    yield from place(hand, thing, lambda: hand.env.position(f"Visual{thing.name}") + nearer, clearance=_OVER_THE_WALL)


def nut_assembly(nut: Graspable, peg: str, hand: Hand) -> Plan[None]:
    """Lower a nut over its peg, handle towards the robot or to a side."""

    def on_the_peg() -> NDArray[np.float64]:
        lowered: NDArray[np.float64] = hand.env.data.body(peg).xpos + _DOWN_THE_PEG
        return lowered

    yield from grasp(hand, nut, headings=_HANDLE_INWARDS)
    yield from place(hand, nut, on_the_peg, headings=_HANDLE_INWARDS, clearance=_OVER_THE_PEG, precision=0.006)


def door(hand: Hand) -> Plan[None]:
    """Take the handle from the front, turn it down about its spindle until the bolt is free, and pull."""
    env = hand.env

    def handle() -> NDArray[np.float64]:
        return env.position("Door_handle")

    spindle = env.joint_axis("Door_latch_joint")[1]
    towards_door = spindle * np.sign(spindle @ (handle() - hand.position))
    hand.closed = False
    before = hand.facing(towards_door, fingers=_UP)
    yield from reach(hand, lambda: handle() - 0.12 * towards_door, attitude=before, tolerance=0.02)
    yield from descend(hand, lambda: handle() + 0.01 * towards_door, way=towards_door)
    yield from close_fingers(hand)
    yield from swing(
        hand, lambda: env.joint_axis("Door_latch_joint"), 1.0, lambda: env.joint("Door_latch_joint") > _UNLATCHED
    )
    yield from swing(hand, lambda: env.joint_axis("Door_hinge"), 1.0, lambda: env.joint("Door_hinge") > _OPENED)


def clean(hand: Hand) -> Plan[None]:
    """Wipe up what dirt there is."""
    yield from wipe(hand, hand.env.dirt)


PLANS: dict[str, Callable[[Hand], Plan[None]]] = {
    "lift": lift,
    "stack": stack,
    **{f"pick-place-{grocery}": partial(pick_place, grocery) for grocery in GROCERIES},
    "nut-assembly-square": partial(nut_assembly, SQUARE_NUT, "peg1"),
    "nut-assembly-round": partial(nut_assembly, ROUND_NUT, "peg2"),
    "door": door,
    "wipe": clean,
}
"""Recipes by the task's name in `robosuite10`."""

for _name, _plan in PLANS.items():
    EXPERTS.register(f"robosuite/{_name}", partial(SkillExpert, _plan))
