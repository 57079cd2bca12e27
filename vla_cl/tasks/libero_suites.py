"""LIBERO's five suites: `libero_spatial`, `libero_object`, `libero_goal`, `libero_10` and `libero_90`.

Listing them needs none of the benchmark's files: the names of all 130 tasks are here (`libero_suites.json`), and a name
holds the instruction. Building an environment needs the files; see `vla-cl assets list`.

Source: Liu et al., "LIBERO: Benchmarking Knowledge Transfer for Lifelong Robot Learning", 2023; task orders and names
from the benchmark's repository.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from vla_cl.envs.libero.bddl import read_problem
from vla_cl.envs.libero.env import THING_SLOTS
from vla_cl.envs.libero.root import libero_root
from vla_cl.envs.robosuite.env import JOINT_SLOTS
from vla_cl.errors import UnknownNameError
from vla_cl.tasks.libero_language import instruction_of, paraphrases_of
from vla_cl.tasks.suite import SUITES, Ranges, TaskSuite
from vla_cl.tasks.task import SeedSplit, Task

BACKEND = "libero"
EXPERT = "libero"

NAMES_FILE = Path(__file__).with_name("libero_suites.json")

HORIZONS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Control steps (50 ms) of an episode, as evaluations of vision-language-action models cap them: a little more than the
longest of the benchmark's demonstrations (193, 254, 270, 505 and 373 steps). Source: Kim et al., "OpenVLA", 2024, whose
evaluation script set them; openpi's uses the same."""

DESCRIPTIONS = {
    "libero_spatial": "ten places of one bowl that goes onto a plate: knowledge of space (Liu et al., 2023)",
    "libero_object": "ten groceries that go into a basket: knowledge of objects (Liu et al., 2023)",
    "libero_goal": "ten goals in one scene: knowledge of procedures (Liu et al., 2023)",
    "libero_10": "ten long tasks in ten scenes, also called LIBERO-Long (Liu et al., 2023)",
    "libero_90": "ninety short tasks in twenty scenes, meant for pre-training (Liu et al., 2023)",
}

SEEDS = SeedSplit(test=range(2_000_000, 2_000_050))
"""The test seed 2,000,000 + k is the benchmark's stored initial state k; all other seeds draw fresh states."""

ORDERS = (
    "0123456789",
    "4687312095",
    "6350429187",
    "7430812596",
    "4563802719",
    "1230695748",
    "3781629405",
    "4297685130",
    "1854096723",
    "8364951207",
    "6905712834",
    "6831025974",
    "8069417325",
    "3864250719",
    "7156328940",
    "2095368714",
    "3596248710",
    "7659034281",
    "2509316487",
    "3512786049",
    "3419768205",
)
"""The benchmark's 21 orders of ten tasks, as digits; the first is the default."""

_HEIGHTS = {
    "libero_spatial": (0.85, 1.5),
    "libero_object": (0.0, 0.65),
    "libero_goal": (0.85, 1.5),
    "libero_10": (0.4, 1.5),
    "libero_90": (0.4, 1.5),
}
"""Metres above the floor between which the hand works: from just below the table (or on the floor) up."""

_TURNED = 3.7
"""Radians, of the rotation vector: a hand that points down is turned by pi, and LIBERO does not fold what is beyond."""


_JOINT_REACH = 2.1
"""Metres or radians: the microwave's door opens widest."""


def ranges_of(suite: str) -> Ranges:
    """The workspace of a suite.

    Actions (7,); as `agent_pos` (8,) the hand's position, its rotation vector and the two finger joints' positions, one
    never negative, the other never positive; as `environment_state` (98,) that again, things' positions, quaternions,
    and fixtures' joints.
    """
    lowest, highest = _HEIGHTS[suite]
    low = (-0.6, -0.5, lowest, *(-_TURNED,) * 3, 0.0, -0.04)
    high = (0.4, 0.5, highest, *(_TURNED,) * 3, 0.04, 0.0)
    place_low, place_high = (-0.6, -0.5, -0.1, *(-1.0,) * 4), (0.6, 0.5, highest, *(1.0,) * 4)
    joints = (_JOINT_REACH,) * JOINT_SLOTS
    return {
        "action": ((-1.0,) * 7, (1.0,) * 7),
        "agent_pos": (low, high),
        "environment_state": (
            (*low, *place_low * THING_SLOTS, *(-reach for reach in joints)),
            (*high, *place_high * THING_SLOTS, *joints),
        ),
    }


@cache
def _names() -> dict[str, tuple[str, ...]]:
    """Names of the tasks, in the benchmark's order, by suite."""
    names = json.loads(NAMES_FILE.read_text(encoding="utf-8"))
    return {suite: tuple(problems) for suite, problems in names.items()}


def declared_language(arguments: Mapping[str, Any]) -> str:
    """The instruction of a task's own file, which is not the one of its name for 29 of the 130 tasks.

    Args:
        arguments: Of the backend: `suite` and `problem`.

    Raises:
        ConfigurationError: The benchmark's files are not here, or the file cannot be read.
    """
    return read_problem(libero_root().problem_path(arguments["suite"], arguments["problem"])).language


@cache
def libero_task(suite: str, problem: str) -> Task:
    """One of LIBERO's tasks.

    Args:
        suite: "libero_goal".
        problem: Name of its file without `.bddl` ("turn_on_the_stove").

    Raises:
        UnknownNameError: There is no such suite, or no such task in it.
    """
    if suite not in HORIZONS:
        raise UnknownNameError("LIBERO suite", suite, HORIZONS)
    if problem not in _names()[suite]:
        raise UnknownNameError("LIBERO task", problem, _names()[suite], f"vla-cl tasks {suite}")
    instruction = instruction_of(problem)
    training, held_out = paraphrases_of(instruction)
    return Task(
        name=problem,
        instruction=instruction,
        paraphrases=training,
        held_out_paraphrases=held_out,
        horizon=HORIZONS[suite],
        backend=BACKEND,
        arguments={"suite": suite, "problem": problem},
        expert=EXPERT,
        seeds=SEEDS,
        declared_language=declared_language,
    )


@cache
def libero_suite(name: str) -> TaskSuite:
    """One of LIBERO's suites. Those of ten tasks have the benchmark's orders, `order0` to `order20`.

    Raises:
        UnknownNameError: There is no such suite.
    """
    if name not in HORIZONS:
        raise UnknownNameError("LIBERO suite", name, HORIZONS)
    problems = _names()[name]
    orders = {f"order{index}": tuple(problems[int(digit)] for digit in digits) for index, digits in enumerate(ORDERS)}
    return TaskSuite(
        name=name,
        tasks=tuple(libero_task(name, problem) for problem in problems),
        description=DESCRIPTIONS[name],
        orders=orders if len(problems) == len(ORDERS[0]) else {},
        ranges=ranges_of(name),
    )


for _name in HORIZONS:
    SUITES.register(_name, partial(libero_suite, _name))
