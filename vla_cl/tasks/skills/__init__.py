"""Skills for scripted experts: generators of actions that compose with `yield from`.

A plan reads like a recipe:

    def put_the_cube_into_the_bin(hand):
        yield from grasp(hand, cube)
        yield from place(hand, cube, lambda: hand.env.position("bin"))

    EXPERTS.register("my/cube-in-bin", partial(SkillExpert, put_the_cube_into_the_bin))

Every skill looks at the simulator's state anew at each step. They work with every robot of the backend "robosuite", and
with scenes of the backend "tabletop", which builds on it.
"""

from __future__ import annotations

from vla_cl.tasks.skills.expert import SkillExpert
from vla_cl.tasks.skills.grasp import X_AXIS, Y_AXIS, Z_AXIS, Graspable, grasp
from vla_cl.tasks.skills.hand import Attitude, Hand, rotation_about
from vla_cl.tasks.skills.motion import close_fingers, descend, hold, open_fingers, reach, retreat, rise_to, travel
from vla_cl.tasks.skills.place import place
from vla_cl.tasks.skills.plan import Condition, Plan, Point, SkillFailed, fixed
from vla_cl.tasks.skills.swing import swing
from vla_cl.tasks.skills.wipe import wipe

__all__ = [
    "X_AXIS",
    "Y_AXIS",
    "Z_AXIS",
    "Attitude",
    "Condition",
    "Graspable",
    "Hand",
    "Plan",
    "Point",
    "SkillExpert",
    "SkillFailed",
    "close_fingers",
    "descend",
    "fixed",
    "grasp",
    "hold",
    "open_fingers",
    "place",
    "reach",
    "retreat",
    "rise_to",
    "rotation_about",
    "travel",
    "swing",
    "wipe",
]
