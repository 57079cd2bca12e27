"""The tabletop suites: one kind of knowledge each, after LIBERO's idea (Liu et al., "LIBERO", 2023, section 3).

What is in them is declared in `scenes/*.yaml`: things that all tasks of a suite share, and per task what differs.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml

from vla_cl.tasks import tabletop_plans
from vla_cl.tasks.suite import TaskSuite, register_suite
from vla_cl.tasks.tabletop import RANGES, check_told_apart, tabletop_task
from vla_cl.tasks.task import Task

EXPERT_MODULE = tabletop_plans
"""Registers the expert that all of these tasks name."""


@functools.cache
def declared_suite(name: str) -> TaskSuite:
    """Build the suite that `scenes/<name>.yaml` declares.

    Its scenes are not set up to look for ambiguity: tests did that, and every start of a program would pay for it.
    """
    text = files("vla_cl.tasks").joinpath("scenes", f"{name}.yaml").read_text("utf-8")
    declaration = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    tasks = tuple(_task(declaration, entry) for entry in declaration["tasks"])
    return tabletop_suite(name, tasks, declaration["description"])


def tabletop_suite(name: str, tasks: tuple[Task, ...], description: str) -> TaskSuite:
    """A suite of tabletop tasks, which can also be learned backwards."""
    check_told_apart(tasks)
    backwards = tuple(task.name for task in reversed(tasks))
    return TaskSuite(name=name, tasks=tasks, description=description, orders={"reversed": backwards}, ranges=RANGES)


def _task(shared: Mapping[str, Any], entry: Mapping[str, Any]) -> Task:
    """One task: the suite's things, changed and added to by its own; a thing that is `null` is not there."""
    things = copy.deepcopy(dict(shared["things"]))
    for name, changes in entry.get("things", {}).items():
        things[name] = None if changes is None else {**(things.get(name) or {}), **changes}
    scene = {"things": {name: thing for name, thing in things.items() if thing is not None}}
    for key in ("goal", "steps", "referents", "dynamics", "camera"):
        value = entry.get(key, shared.get(key))
        if value is not None:
            scene[key] = value
    words = {key: entry[key] for key in ("instruction", "paraphrases", "held_out_paraphrases") if key in entry}
    return tabletop_task(entry["name"], scene, horizon=entry.get("horizon", shared["horizon"]), check=False, **words)


@register_suite("tabletop_goal")
def tabletop_goal() -> TaskSuite:
    """One scene, ten goals."""
    return declared_suite("tabletop_goal")


@register_suite("tabletop_spatial")
def tabletop_spatial() -> TaskSuite:
    """Equal things at ten places."""
    return declared_suite("tabletop_spatial")


@register_suite("tabletop_object")
def tabletop_object() -> TaskSuite:
    """Ten things into one basket."""
    return declared_suite("tabletop_object")


@register_suite("tabletop_long")
def tabletop_long() -> TaskSuite:
    """Two or three goals in a row."""
    return declared_suite("tabletop_long")
