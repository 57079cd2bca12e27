"""The shift suites: the ten goals of `tabletop_goal`, with one thing changed at a time and everything else held.

Each task of a shift suite is a base task under one shift, so that what is forgotten can be put down to that kind of
change: words, the camera, the physics, or the robot.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vla_cl.tasks.suite import TaskSuite, register_suite
from vla_cl.tasks.tabletop_suites import declared_suite, tabletop_suite
from vla_cl.tasks.task import Task

BASE = "tabletop_goal"

LANGUAGE: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "open-cabinet": (
        "I need to get at what is inside the cabinet",
        (
            "give me access to the inside of the cabinet",
            "somebody left the cabinet shut, change that",
            "the cabinet must not stay shut",
        ),
    ),
    "red-cube-in-cabinet": (
        "put away in the cabinet the cube that is not blue",
        (
            "the cube that isn't blue goes into the cabinet",
            "store the cube in the cabinet, but not the blue one",
            "of the two cubes, leave the blue one and put the other into the cabinet",
        ),
    ),
    "turn-knob": (
        "do not press anything, turn what can be turned",
        (
            "leave the button alone and turn the round thing beside the basket",
            "turn the yellow thing, not the red one",
            "rotate what is yellow without pressing what is red",
        ),
    ),
    "press-button": (
        "do not turn anything, press what can be pressed",
        (
            "leave the knob alone and press the red thing in the corner",
            "press the red thing, do not touch the yellow one",
            "push down what is red without turning what is yellow",
        ),
    ),
    "push-plate-to-mat": (
        "slide the round orange thing over to the purple square",
        (
            "shift the orange disc until it covers the purple area",
            "bring the disc to the coloured square, without lifting it",
            "the flat orange thing should end up on the square",
        ),
    ),
    "stack-red-cube-on-blue-cube": (
        "build a tower of the two cubes with the blue one at the bottom",
        (
            "make a tower whose top is red",
            "stack the cubes so that the blue one carries the other",
            "the blue cube should carry the red one",
        ),
    ),
    "red-cube-on-plate": (
        "serve the smaller cube on the plate",
        (
            "of the two cubes, put the smaller one on the plate",
            "the plate should hold the smaller of the cubes",
            "lay the cube that is not the larger one on the orange disc",
        ),
    ),
    "blue-cube-in-basket": (
        "put the larger cube in the basket",
        (
            "of the two cubes, the larger one goes into the basket",
            "drop into the basket the cube that is not red",
            "the basket should hold the cube that isn't red",
        ),
    ),
    "can-on-cabinet": (
        "put the only thing that is green on top of the cabinet",
        (
            "the cylinder goes onto the roof of the cabinet",
            "set what is green on the wooden top",
            "stand the cylinder on the piece of furniture",
        ),
    ),
    "can-on-plate": (
        "serve the cylinder on the plate, not a cube",
        (
            "put on the plate the thing that is not a cube",
            "the plate should hold what is green",
            "stand the green cylinder on the orange disc",
        ),
    ),
}
"""By base task: the instruction, and other ways to say it, of which the last is never trained on. They describe things
by colour, size and shape, by what they are not, and by what is to come of it."""

CAMERAS: tuple[Mapping[str, Any], ...] = (
    {"position": (0.80, 0.30, 0.80)},
    {"position": (0.80, -0.30, 0.80)},
    {"position": (0.60, 0.50, 0.70)},
    {"position": (0.60, -0.50, 0.70)},
    {"position": (0.60, 0.00, 1.05)},
    {"position": (0.90, 0.00, 0.55)},
    {"position": (0.80, 0.00, 0.80), "field_of_view": 58.0},
    {"position": (0.95, 0.15, 0.95), "field_of_view": 40.0},
    {"position": (0.30, 0.70, 0.80)},
    {"position": (0.25, 0.00, 1.20)},
)
"""One view a task, in metres from the middle of the table's top: around, higher, lower, wider, nearer, from above."""

DYNAMICS: tuple[tuple[Mapping[str, float], int], ...] = (
    ({"damping": 3.0}, 0),
    ({"mass": 3.0}, 0),
    ({"damping": 0.3}, 0),
    ({"damping": 3.0}, 1),
    ({"friction": 0.5}, 0),
    ({"mass": 0.4}, 0),
    ({}, 1),
    ({"friction": 2.0}, 0),
    ({}, 2),
    ({"friction": 0.6, "mass": 2.0, "damping": 2.0}, 1),
)
"""One change a task: factors on friction, mass and damping, and control steps by which actions are late."""

ROBOTS = ("Panda", "Sawyer", "UR5e", "Kinova3", "Sawyer", "IIWA", "Panda", "UR5e", "Kinova3", "IIWA")
"""One arm a task, each with its own gripper; never the same twice in a row."""

_ROBOT_HORIZON = 400  # some grippers are slower than the Panda's


def _shifted(task: Task, changes: Mapping[str, Any] | None = None, **arguments: Any) -> Task:
    """A task with keys of its scene and arguments of its backend replaced."""
    scene = {**task.arguments["scene"], **(changes or {})}
    return replace(task, arguments={**task.arguments, "scene": scene, **arguments})


def _suite(name: str, tasks: Sequence[Task], description: str) -> TaskSuite:
    return tabletop_suite(name, tuple(tasks), description)


@register_suite("tabletop_language")
@functools.cache
def tabletop_language() -> TaskSuite:
    """Rephrased, negated and referring instructions."""
    tasks = []
    for task in declared_suite(BASE).tasks:
        instruction, others = LANGUAGE[task.name]
        tasks.append(replace(task, instruction=instruction, paraphrases=others[:-1], held_out_paraphrases=others[-1:]))
    return _suite("tabletop_language", tasks, "the ten goals of tabletop_goal rephrased, negated and referred to")


@register_suite("tabletop_camera")
@functools.cache
def tabletop_camera() -> TaskSuite:
    """Another view each task."""
    base = declared_suite(BASE).tasks
    tasks = [
        _shifted(task, {"camera": {**task.arguments["scene"]["camera"], **camera}})
        for task, camera in zip(base, CAMERAS, strict=True)
    ]
    return _suite("tabletop_camera", tasks, "the ten goals of tabletop_goal, each seen by another camera")


@register_suite("tabletop_dynamics")
@functools.cache
def tabletop_dynamics() -> TaskSuite:
    """Other friction, masses, damping or a delay each task."""
    base = declared_suite(BASE).tasks
    tasks = [
        _shifted(task, {"dynamics": {**task.arguments["scene"]["dynamics"], **factors}}, action_delay=delay)
        for task, (factors, delay) in zip(base, DYNAMICS, strict=True)
    ]
    return _suite("tabletop_dynamics", tasks, "the ten goals of tabletop_goal, each under another physics or delay")


@register_suite("tabletop_robot")
@functools.cache
def tabletop_robot() -> TaskSuite:
    """Another arm each task."""
    base = declared_suite(BASE).tasks
    tasks = [
        replace(_shifted(task, robot=robot), horizon=_ROBOT_HORIZON) for task, robot in zip(base, ROBOTS, strict=True)
    ]
    return _suite("tabletop_robot", tasks, "the ten goals of tabletop_goal, each with another robot and its gripper")
