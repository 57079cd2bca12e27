"""`vla-cl perturbations`: ways in which an evaluation may differ from what was learned in, and how they look."""

from __future__ import annotations

from pathlib import Path

import typer

from vla_cl.cli.output import JsonOption, PluginOption, first_sentence, print_json, print_table, progress
from vla_cl.cli.values import camera_names
from vla_cl.errors import ConfigurationError
from vla_cl.registry import load_plugins


def perturbations(
    task: str | None = typer.Argument(None, help="With --picture: a task, or suite/task.", show_default=False),
    picture: Path | None = typer.Option(
        None, "--picture", metavar="FILE.png", help="Draw what the task's cameras see under each, at three levels."
    ),
    cameras: str | None = typer.Option(
        None, "--cameras", metavar="LIST", help="Which of them, separated by commas (default: those of its simulator)."
    ),
    image_size: int = typer.Option(192, "--image-size", min=64, max=256, help="Pixels of each view in the picture."),
    plugin: list[str] | None = PluginOption,
    as_json: bool = JsonOption,
) -> None:
    """List perturbations with their levels; draw a task under each.

    [bold]Examples[/bold]

    vla-cl perturbations

    vla-cl perturbations tabletop_goal/turn-knob --picture perturbations.png
    """
    from vla_cl.envs.perturbations import PERTURBATIONS

    if (task is None) != (picture is None):
        raise ConfigurationError("a picture is of a task: give both TASK and --picture FILE.png, or none of them")
    load_plugins(plugin or [])
    if as_json:
        listed = [
            {"name": name, "levels": dict(kind.levels), "unit": kind.unit, "what": first_sentence(kind)}
            for name, kind in ((name, PERTURBATIONS[name]) for name in PERTURBATIONS)
        ]
        print_json(listed)
    elif task is None:
        rows = []
        for name in PERTURBATIONS:
            kind = PERTURBATIONS[name]
            numbered = kind.largest is not None
            levels = ", ".join(f"{level} {value:g}" if numbered else level for level, value in kind.levels.items())
            rows.append([name, levels, kind.unit, first_sentence(kind)])
        print_table(["perturbation", "levels", "counted in", "what is different"], rows)
    if task is not None and picture is not None:
        _draw(task, picture, cameras, image_size, tuple(plugin or []))


def _draw(name: str, picture: Path, cameras: str | None, image_size: int, plugins: tuple[str, ...]) -> None:
    from vla_cl.envs import ObservationOptions
    from vla_cl.tasks import find_task
    from vla_cl.tasks.perturbation_sheet import levels_to_show, perturbation_sheet

    task = find_task(name)
    seen = ObservationOptions(None if cameras is None else camera_names(cameras), image_size)
    spec, seed = task.environment_spec(seen, plugins=plugins), task.seeds.test[0]
    panels, left_out = levels_to_show(spec, seed)
    perturbation_sheet(spec, seed, panels, picture)
    for each, reason in left_out.items():
        progress().print(f"{each} is left out: {reason}", soft_wrap=True, markup=False)
    progress().print(f"wrote {picture}", soft_wrap=True, markup=False)
