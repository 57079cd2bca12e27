"""`vla-cl tasks`: the tasks of a suite, or of all, with their instructions; as a contact sheet, too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vla_cl.cli.output import JsonOption, PluginOption, print_json, print_table, progress
from vla_cl.registry import load_plugins

if TYPE_CHECKING:
    from vla_cl.tasks import Task


def tasks(
    suite: str | None = typer.Argument(None, help="Name of a suite; without one, the tasks of all suites."),
    picture: Path | None = typer.Option(
        None, "--picture", metavar="FILE.png", help="Also draw every task's start and its expert's success."
    ),
    image_size: int = typer.Option(192, "--image-size", min=64, max=256, help="Pixels of each view in the picture."),
    plugin: list[str] | None = PluginOption,
    as_json: bool = JsonOption,
) -> None:
    """List tasks with their instructions; draw them as a contact sheet.

    Example: [bold]vla-cl tasks mw5 --picture mw5.png[/bold]
    """
    from vla_cl.tasks import SUITES, get_suite

    load_plugins(plugin or [])
    found: dict[str, Task] = {}
    holders: dict[str, list[str]] = {}
    for name in [suite] if suite else list(SUITES):
        for task in get_suite(name).unique_tasks:
            found.setdefault(task.name, task)
            holders.setdefault(task.name, []).append(name)
    if as_json:
        print_json([_described(task, holders[task.name]) for task in found.values()])
    else:
        rows = [
            [task.name, task.instruction, str(task.horizon), task.backend, ", ".join(holders[task.name])]
            for task in found.values()
        ]
        print_table(["task", "instruction", "horizon", "backend", "suites"], rows)
    if picture is not None:
        from vla_cl.envs import ObservationOptions
        from vla_cl.tasks import contact_sheet

        contact_sheet(list(found.values()), picture, ObservationOptions(image_size=image_size))
        progress().print(f"wrote {picture}")


def _described(task: Task, suites: list[str]) -> dict[str, Any]:
    from vla_cl.tasks import gymnasium_id

    return {
        "name": task.name,
        "instruction": task.instruction,
        "paraphrases": list(task.paraphrases),
        "held_out_paraphrases": list(task.held_out_paraphrases),
        "horizon": task.horizon,
        "backend": task.backend,
        "expert": task.expert,
        "suites": suites,
        "gymnasium_ids": [gymnasium_id(suite, task.name) for suite in suites],
    }
