"""The 50 manipulation tasks of Meta-World, version 3.

A Sawyer arm at a table moves its hand in x, y and z and closes or opens a gripper; orientation is fixed. The package
has no language, so instructions and paraphrases are ours (`meta_world_language.json`). Left and right are the robot's:
it stands behind the table's near edge and looks along +y, so its right hand points along +x.

Source: Yu et al., "Meta-World: A Benchmark and Evaluation for Multi-Task and Meta Reinforcement Learning", 2019.
"""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path

from vla_cl.errors import UnknownNameError
from vla_cl.tasks.expert import EXPERTS
from vla_cl.tasks.meta_world_experts import MetaWorldExpert
from vla_cl.tasks.task import Task

HORIZON = 200
"""Steps of an episode, as in Continual World; 2.5 seconds at 80 Hz."""

LONGER_HORIZONS = {"bin-picking": 300, "peg-insert-side": 300}
"""Tasks whose scripted expert is often not done after `HORIZON` steps."""

LANGUAGE_FILE = Path(__file__).with_name("meta_world_language.json")

TASK_NAMES = (
    "assembly",
    "basketball",
    "bin-picking",
    "box-close",
    "button-press",
    "button-press-topdown",
    "button-press-topdown-wall",
    "button-press-wall",
    "coffee-button",
    "coffee-pull",
    "coffee-push",
    "dial-turn",
    "disassemble",
    "door-close",
    "door-lock",
    "door-open",
    "door-unlock",
    "drawer-close",
    "drawer-open",
    "faucet-close",
    "faucet-open",
    "hammer",
    "hand-insert",
    "handle-press",
    "handle-press-side",
    "handle-pull",
    "handle-pull-side",
    "lever-pull",
    "peg-insert-side",
    "peg-unplug-side",
    "pick-out-of-hole",
    "pick-place",
    "pick-place-wall",
    "plate-slide",
    "plate-slide-back",
    "plate-slide-back-side",
    "plate-slide-side",
    "push",
    "push-back",
    "push-wall",
    "reach",
    "reach-wall",
    "shelf-place",
    "soccer",
    "stick-pull",
    "stick-push",
    "sweep",
    "sweep-into",
    "window-close",
    "window-open",
)
"""Meta-World's tasks in alphabetical order, without the "-v3" of the package."""


@cache
def _language() -> dict[str, dict[str, list[str] | str]]:
    """Instruction, paraphrases and held-out paraphrases by task name."""
    language: dict[str, dict[str, list[str] | str]] = json.loads(LANGUAGE_FILE.read_text(encoding="utf-8"))
    return language


@cache
def meta_world_task(name: str) -> Task:
    """One Meta-World task by its name without version ("window-close").

    Raises:
        UnknownNameError: Meta-World has no such task.
    """
    if name not in TASK_NAMES:
        raise UnknownNameError("Meta-World task", name, TASK_NAMES, "vla-cl tasks mw50")
    language = _language()[name]
    return Task(
        name=name,
        instruction=str(language["instruction"]),
        paraphrases=tuple(language["paraphrases"]),
        held_out_paraphrases=tuple(language["held_out_paraphrases"]),
        horizon=LONGER_HORIZONS.get(name, HORIZON),
        backend="meta_world",
        arguments={"task": f"{name}-v3"},
        expert=f"meta_world/{name}",
    )


for _name in TASK_NAMES:
    EXPERTS.register(f"meta_world/{_name}", partial(MetaWorldExpert, f"{_name}-v3"))
