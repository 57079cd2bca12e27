"""The suite `robosuite10`: ten of robosuite's own tasks for one arm, as they come.

Source: Zhu et al., "robosuite: A Modular Simulation Framework and Benchmark for Robot Learning", 2020. robosuite has no
language, so instructions and paraphrases are ours (`robosuite_language.json`).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from vla_cl.errors import UnknownNameError
from vla_cl.tasks import robosuite_experts as _robosuite_experts  # noqa: F401  registers the experts
from vla_cl.tasks.suite import Ranges, TaskSuite, register_suite
from vla_cl.tasks.task import Task

LANGUAGE_FILE = Path(__file__).with_name("robosuite_language.json")

ENVIRONMENTS = {
    "lift": ("Lift", 100),
    "stack": ("Stack", 200),
    "pick-place-can": ("PickPlaceCan", 300),
    "pick-place-milk": ("PickPlaceMilk", 300),
    "pick-place-bread": ("PickPlaceBread", 300),
    "pick-place-cereal": ("PickPlaceCereal", 300),
    "nut-assembly-square": ("NutAssemblySquare", 300),
    "nut-assembly-round": ("NutAssemblyRound", 300),
    "door": ("Door", 200),
    "wipe": ("Wipe", 250),
}
"""robosuite's name of each task, and the control steps (50 ms) of an episode."""

_PI = 3.1416
_WORKSPACE_LOW, _WORKSPACE_HIGH = (-0.35, -0.5, 0.75), (0.35, 0.5, 1.3)  # metres, from the table's middle and the floor
_HAND_LOW, _HAND_HIGH = (*_WORKSPACE_LOW, -_PI, -_PI, -_PI, 0.0), (*_WORKSPACE_HIGH, _PI, _PI, _PI, 0.12)
_POSE_LOW, _POSE_HIGH = (*_WORKSPACE_LOW, *(-1.0,) * 4), (*_WORKSPACE_HIGH, *(1.0,) * 4)

RANGES: Ranges = {
    "action": ((-1.0,) * 7, (1.0,) * 7),
    "agent_pos": (_HAND_LOW, _HAND_HIGH),
    "environment_state": ((*_HAND_LOW, *_POSE_LOW * 8, *(-1.6,) * 6), (*_HAND_HIGH, *_POSE_HIGH * 8, *(1.6,) * 6)),
}
"""The workspace of one arm at robosuite's tables. The 69 numbers are the hand's position (3), rotation vector (3) and
opening (1), eight objects' positions (3) and quaternions (4), and six joints of fixtures."""


@cache
def _language() -> dict[str, dict[str, list[str] | str]]:
    """Instruction, paraphrases and held-out paraphrases by task name."""
    language: dict[str, dict[str, list[str] | str]] = json.loads(LANGUAGE_FILE.read_text(encoding="utf-8"))
    return language


@cache
def robosuite_task(name: str, robot: str = "Panda") -> Task:
    """One of robosuite's tasks by its name in the suite ("nut-assembly-square").

    Args:
        name: A key of `ENVIRONMENTS`.
        robot: The arm; the experts are measured with Panda.

    Raises:
        UnknownNameError: There is no such task here.
    """
    if name not in ENVIRONMENTS:
        raise UnknownNameError("robosuite task", name, ENVIRONMENTS, "vla-cl tasks robosuite10")
    environment, horizon = ENVIRONMENTS[name]
    language = _language()[name]
    return Task(
        name=name,
        instruction=str(language["instruction"]),
        paraphrases=tuple(language["paraphrases"]),
        held_out_paraphrases=tuple(language["held_out_paraphrases"]),
        horizon=horizon,
        backend="robosuite",
        arguments={"environment": environment, "robot": robot},
        expert=f"robosuite/{name}",
    )


@register_suite("robosuite10")
def robosuite10() -> TaskSuite:
    """robosuite's ten tasks for one arm."""
    names = tuple(ENVIRONMENTS)
    return TaskSuite(
        name="robosuite10",
        tasks=tuple(robosuite_task(name) for name in names),
        description="ten of robosuite's own tasks for one Panda arm, from lifting to wiping (Zhu et al., 2020)",
        orders={"reversed": names[::-1]},
        ranges=RANGES,
    )
