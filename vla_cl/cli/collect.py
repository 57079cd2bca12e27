"""`vla-cl collect`: demonstrations of a task, or of every task of a suite, without training on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vla_cl.cli.output import PluginOption, print_table, progress
from vla_cl.cli.values import camera_names, changed_rendering
from vla_cl.errors import UnknownNameError
from vla_cl.registry import load_plugins

if TYPE_CHECKING:
    from vla_cl.tasks import Task


def collect(
    what: str = typer.Argument(..., metavar="SUITE_OR_TASK", help="A suite (mw5), a task (push) or suite/task."),
    episodes: int = typer.Option(50, "--episodes", min=1, help="Successful episodes of each task."),
    seed: int = typer.Option(0, "--seed", help="Which initial states and which noise."),
    noise: float = typer.Option(
        0.0, "--noise", min=0.0, help="Standard deviation of the noise on executed actions; labels stay the expert's."
    ),
    cameras: str | None = typer.Option(
        None,
        "--cameras",
        metavar="NAME,NAME",
        help="Cameras; 'none' draws nothing (default: the backend's pair).",
    ),
    image_size: int = typer.Option(64, "--image-size", min=64, max=256, help="Height and width in pixels."),
    privileged: bool = typer.Option(True, "--privileged/--no-privileged", help="Store the simulator's own state."),
    rendering: list[str] | None = typer.Option(
        None, "--rendering", metavar="KEY=VALUE", help="How images are drawn: shadows=true, raycast; repeatable."
    ),
    processes: int | None = typer.Option(None, "--processes", min=1, help="Simulator processes (default: one a core)."),
    output: Path = typer.Option(Path("demonstrations"), "--output", help="Folder of demonstrations, shared by runs."),
    plugin: list[str] | None = PluginOption,
) -> None:
    """Collect demonstrations from scripted experts, as robomimic-compatible HDF5 files.

    What is there already is not collected again; an interrupted collection goes on. The files are named after
    everything that decides their content, so [bold]vla-cl run[/bold] finds those that suit it.

    Example: [bold]vla-cl collect mw5 --episodes 50 --noise 0.2 --image-size 128[/bold]
    """
    from vla_cl.data import CollectionOptions, DemonstrationFile, demonstrations_for
    from vla_cl.envs import ObservationOptions, RenderingOptions

    plugins = tuple(plugin or [])
    load_plugins(plugins)
    tasks = _tasks(what)
    names = None if cameras is None else camera_names(cameras)
    observation = ObservationOptions(cameras=names, image_size=image_size, privileged=privileged)
    options = CollectionOptions(episodes=episodes, seed=seed, action_noise=noise)
    drawn = changed_rendering(RenderingOptions(), rendering or [])
    rows = []
    for task in tasks:
        progress().print(f"{task.name}: {episodes} episodes")
        path = demonstrations_for(task, output, options, observation, drawn, processes=processes, plugins=plugins)
        with DemonstrationFile(path) as file:
            rows.append([task.name, str(len(file.lengths)), str(int(file.lengths.sum())), str(path)])
    print_table(["task", "episodes", "steps", "file"], rows)


def _tasks(what: str) -> tuple[Task, ...]:
    """The tasks of a suite, or the one task of that name.

    Raises:
        UnknownNameError: Neither a suite nor a task is called that.
    """
    from vla_cl.tasks import SUITES, available_suites, find_task, get_suite

    if what in SUITES or "+" in what:
        return get_suite(what).unique_tasks
    try:
        return (find_task(what),)
    except UnknownNameError as error:
        if "/" in what:
            raise
        known = {*SUITES, *(task.name for suite in available_suites() for task in suite.tasks)}
        raise UnknownNameError("suite or task", what, known, "vla-cl suites; vla-cl tasks") from error
