"""Tasks on declared scenes: a scene and a goal are a task; its words and its expert follow from them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_cl.envs.robosuite.env import JOINT_SLOTS
from vla_cl.envs.tabletop.env import THING_SLOTS
from vla_cl.envs.tabletop.placement import PlacedView, find_ambiguity, place
from vla_cl.envs.tabletop.scene import Scene
from vla_cl.errors import ConfigurationError, UnknownNameError, VlaClError
from vla_cl.tasks.declaration import READERS
from vla_cl.tasks.suite import Ranges
from vla_cl.tasks.tabletop_language import Wording, describe
from vla_cl.tasks.task import Task

BACKEND = "tabletop"
EXPERT = "tabletop"

_SCENE_KEYS = ("things", "goal", "referents", "dynamics", "camera", "steps")
_ROBOT_KEYS = ("robot", "gripper", "stepper", "rebuild", "action_delay")
_CHECKED_STATES = 8

_POSE_LOW, _POSE_HIGH = (-0.4, -0.5, 0.75, -1.0, -1.0, -1.0, -1.0), (0.3, 0.5, 1.15, 1.0, 1.0, 1.0, 1.0)
_HAND_LOW, _HAND_HIGH = (-0.4, -0.5, 0.75, -1.6, -1.6, -1.6, 0.0), (0.3, 0.5, 1.15, 1.6, 1.6, 1.6, 0.09)

RANGES: Ranges = {
    "action": ((-1.0,) * 7, (1.0,) * 7),
    "agent_pos": (_HAND_LOW, _HAND_HIGH),
    "environment_state": (
        (*_HAND_LOW, *_POSE_LOW * THING_SLOTS, *(-1.8,) * JOINT_SLOTS),
        (*_HAND_HIGH, *_POSE_HIGH * THING_SLOTS, *(1.8,) * JOINT_SLOTS),
    ),
}
"""The workspace above the table: metres in the world's frame, whose table top is at 0.8; radians; metres of opening."""


def tabletop_task(
    name: str,
    scene: Mapping[str, Any],
    *,
    horizon: int,
    instruction: str = "",
    paraphrases: Sequence[str] = (),
    held_out_paraphrases: Sequence[str] = (),
    check: bool = True,
    **arguments: Any,
) -> Task:
    """A task on a declared scene.

    Args:
        name: Of the task.
        scene: The declaration, as `Scene.from_mapping` reads it; `steps` lists what the expert goes through, where the
            goal's order is not the order in which to do things, or leaves out what must be done on the way.
        horizon: Control steps until an episode is truncated.
        instruction, paraphrases, held_out_paraphrases: Words; without an instruction they are made from the goal.
        check: Whether to draw initial states to see that the scene can be set up and is not ambiguous, which takes
            some ten milliseconds.
        arguments: Further arguments of the backend: robot, action_delay, ...

    Raises:
        ConfigurationError: The scene cannot be set up, or is ambiguous: something in its goal is called like something
            else and nothing tells the two apart.
        UnknownNameError: It names something that does not exist.
    """
    try:
        declared = Scene.from_mapping(scene)
        if check:
            check_unambiguous(declared)
        wording = Wording(instruction, tuple(paraphrases), tuple(held_out_paraphrases))
        if not instruction:
            wording = _words(declared)
    except VlaClError as error:
        raise ConfigurationError(f"task {name!r}: {error}") from error
    return Task(
        name=name,
        instruction=wording.instruction,
        paraphrases=wording.paraphrases,
        held_out_paraphrases=wording.held_out,
        horizon=horizon,
        backend=BACKEND,
        arguments={"scene": declared.to_mapping(), **arguments},
        expert=EXPERT,
    )


def _words(scene: Scene) -> Wording:
    """What the goal is in words, if it is one that can be said without help."""
    for condition in (*scene.goal, *scene.referents.values()):
        if condition.negated:
            raise ConfigurationError(f"there are no words for {str(condition)!r}; give an instruction")
    try:
        return describe(scene, scene.goal)
    except KeyError as error:
        raise ConfigurationError(f"there are no words for the predicate {error}; give an instruction") from error


def check_unambiguous(scene: Scene) -> None:
    """Refuse a scene whose words fit several things, or whose initial states cannot be drawn.

    Raises:
        ConfigurationError: Which thing, and why.
    """
    named = {argument for condition in (*scene.goal, *scene.steps) for argument in condition.arguments}
    named |= {argument for name in named & set(scene.referents) for argument in scene.referents[name].arguments}
    for name in sorted(named):
        twins = [
            other
            for other, thing in scene.things.items()
            if other != name and thing.called == scene.things[name].called
        ]
        if twins and name not in scene.referents:
            raise ConfigurationError(
                f"the scene is ambiguous: {name!r} and {twins[0]!r} are both called {scene.things[name].called!r}; "
                "give one another colour or phrase, or tell them apart in `referents`"
            )
    items = scene.items()
    for seed in range(_CHECKED_STATES):
        placed = place(scene, items, np.random.default_rng(seed))
        ambiguity = find_ambiguity(scene, PlacedView(items, placed))
        if ambiguity:
            raise ConfigurationError(f"the scene is ambiguous: {ambiguity}")


def check_told_apart(tasks: Sequence[Task]) -> None:
    """Refuse tasks that are told the same and ask for different things.

    Raises:
        ConfigurationError: Two tasks share an instruction but not a goal.
    """
    goals: dict[str, tuple[str, Any]] = {}
    for task in tasks:
        for sentence in (task.instruction, *task.paraphrases, *task.held_out_paraphrases):
            goal = task.arguments["scene"]["goal"], task.arguments["scene"]["referents"]
            other, known = goals.setdefault(sentence, (task.name, goal))
            if known != goal:
                raise ConfigurationError(
                    f"tasks {other!r} and {task.name!r} are both told {sentence!r} and have different goals"
                )


def read_declaration(fields: dict[str, Any], file: Path) -> dict[str, Any]:
    """The backend's arguments from what a YAML file says of a tabletop task. Mesh files are relative to it."""
    for key in fields:
        if key not in (*_SCENE_KEYS, *_ROBOT_KEYS):
            raise UnknownNameError("key of a tabletop task", key, (*_SCENE_KEYS, *_ROBOT_KEYS))
    scene = {key: copy.deepcopy(fields[key]) for key in _SCENE_KEYS if key in fields}
    things = scene.get("things")
    for thing in things.values() if isinstance(things, Mapping) else ():
        options = thing.get("options") if isinstance(thing, Mapping) else None
        if isinstance(options, Mapping) and "file" in options:
            thing["options"] = {**options, "file": str(file.parent / str(options["file"]))}
    declared = Scene.from_mapping(scene)
    check_unambiguous(declared)
    return {"scene": declared.to_mapping(), **{key: fields[key] for key in _ROBOT_KEYS if key in fields}}


READERS.register(BACKEND, read_declaration)
