"""`vla-cl tasks`: list tasks, write a new one, prove one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from vla_cl.cli.output import JsonOption, PluginOption, print_json, print_table, progress
from vla_cl.registry import load_plugins

if TYPE_CHECKING:
    from vla_cl.tasks import Task

LIST = "list"


class TasksGroup(TyperGroup):
    """`vla-cl tasks SUITE` is short for `vla-cl tasks list SUITE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `list` in front of what names no other command."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [LIST, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=TasksGroup, rich_markup_mode="rich", subcommand_metavar="[SUITE | new NAME | check NAME]")


@app.callback()
def tasks() -> None:
    """List tasks with their instructions; write a new one; prove one.

    [bold]Examples[/bold]

    vla-cl tasks mw5 --picture mw5.png

    vla-cl tasks new wipe-table

    vla-cl tasks check wipe-table --plugin wipe_table.py --picture wipe_table.png
    """


@app.command(LIST)
def list_tasks(
    suite: str | None = typer.Argument(None, help="Name of a suite; without one, the tasks of all suites."),
    picture: Path | None = typer.Option(
        None, "--picture", metavar="FILE.png", help="Also draw every task's start and its expert's success."
    ),
    image_size: int = typer.Option(192, "--image-size", min=64, max=256, help="Pixels of each view in the picture."),
    plugin: list[str] | None = PluginOption,
    as_json: bool = JsonOption,
) -> None:
    """List tasks with their instructions; draw them as a contact sheet. `list` may be left out.

    Example: [bold]vla-cl tasks mw5 --picture mw5.png[/bold]
    """
    from vla_cl.tasks import available_suites, get_suite

    load_plugins(plugin or [])
    found: dict[str, Task] = {}
    holders: dict[str, list[str]] = {}
    for each in [get_suite(suite)] if suite else available_suites():
        for task in each.unique_tasks:
            found.setdefault(task.name, task)
            holders.setdefault(task.name, []).append(each.name)
    if as_json:
        print_json([_described(task, holders[task.name]) for task in found.values()])
    else:
        rows = [
            [task.name, task.instruction, str(task.horizon), task.backend, ", ".join(holders[task.name])]
            for task in found.values()
        ]
        print_table(["task", "instruction", "horizon", "backend", "suites"], rows)
    if picture is not None:
        _draw(list(found.values()), picture, image_size)


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


def _draw(tasks: list[Task], picture: Path, image_size: int) -> None:
    from vla_cl.envs import ObservationOptions
    from vla_cl.tasks import contact_sheet

    contact_sheet(tasks, picture, ObservationOptions(image_size=image_size))
    progress().print(f"wrote {picture}")


@app.command("new")
def new_task(
    name: str = typer.Argument(..., help="Of the task: lower-case words with dashes (wipe-table)."),
    template: str = typer.Option(
        "class", "--template", help="class: a Python file; scene: things on a table, in YAML; package: for pip."
    ),
    output: Path = typer.Option(Path(), "--output", metavar="FOLDER", help="Where to write it."),
) -> None:
    """Write a task that runs, to be changed into yours. Nothing that is there is overwritten.

    Example: [bold]vla-cl tasks new wipe-table[/bold]
    """
    from vla_cl.tasks.template import write_template

    written = write_template(name, template, output)
    for path in written.files:
        progress().print(f"wrote {path}", soft_wrap=True, markup=False)
    progress().print(f"next: {written.next_step}", soft_wrap=True, markup=False)


@app.command("check")
def check(
    name: str = typer.Argument(..., metavar="TASK", help="Name of a task, or suite/task."),
    episodes: int = typer.Option(20, "--episodes", min=2, help="Initial states of each split, and expert's episodes."),
    minimum_success: float = typer.Option(
        0.9, "--minimum-success", min=0.0, max=1.0, help="Share of the episodes that the expert must solve."
    ),
    picture: Path | None = typer.Option(
        None, "--picture", metavar="FILE.png", help="Also draw the task's start and its expert's success."
    ),
    plugin: list[str] | None = PluginOption,
    as_json: bool = JsonOption,
) -> None:
    """Prove a task: contract, seeding, initial states, saved states, horizon, expert, replay, rendering.

    The exit status is 0 only if every check passes.

    Example: [bold]vla-cl tasks check mw5/window-close --picture window_close.png[/bold]
    """
    from vla_cl.evaluation.task_check import check_task
    from vla_cl.tasks import find_task

    plugins = tuple(plugin or [])
    load_plugins(plugins)
    task = find_task(name)
    checks = []
    with progress().status(f"checking {task.name}") as status:
        for each in check_task(task, episodes=episodes, minimum_success=minimum_success, plugins=plugins):
            checks.append(each)
            status.update(f"checking {task.name}: {each.name} is done")
    failed = [each.name for each in checks if not each.passed]
    if as_json:
        listed = [{"name": each.name, "passed": each.passed, "told": each.told} for each in checks]
        print_json({"task": task.name, "passed": not failed, "checks": listed})
    else:
        rows = [[each.name, "pass" if each.passed else "FAIL", each.told] for each in checks]
        print_table(["check", "result", "measured"], rows)
    if picture is not None and checks[0].passed:
        _draw([task], picture, image_size=192)
    if failed:
        progress().print(
            f"{task.name}: {len(failed)} of {len(checks)} checks failed: {', '.join(failed)}", markup=False
        )
        raise typer.Exit(1)
