"""`vla-cl watch`: see a policy, or a task's expert, at work."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vla_cl.cli.output import JsonOption, PluginOption, print_json, progress, results
from vla_cl.cli.values import arguments_of
from vla_cl.errors import ConfigurationError
from vla_cl.registry import load_plugins

if TYPE_CHECKING:
    from vla_cl.evaluation import EpisodeRow


def watch(
    task: str = typer.Argument(..., metavar="TASK", help="Name of a task, or suite/task."),
    policy: Path | None = typer.Option(
        None, "--policy", metavar="FOLDER", help="A run's folder, or a checkpoint's (default: the task's expert plays)."
    ),
    episode: int = typer.Option(0, "--episode", min=0, help="Which of the initial states, as evaluations count them."),
    split: str = typer.Option("test", "--split", help="Of the initial states: test or selection."),
    instruction: str | None = typer.Option(None, "--instruction", metavar="TEXT", help="What the policy is told."),
    perturb: str | None = typer.Option(
        None, "--perturb", metavar="LIST", help="All at once: camera:large,light (vla-cl perturbations)."
    ),
    horizon: int | None = typer.Option(None, "--horizon", min=1, help="Steps until the episode is truncated."),
    argument: list[str] | None = typer.Option(
        None, "--argument", metavar="KEY=VALUE", help="Of the task's simulator, e.g. action_delay=2; repeatable."
    ),
    speed: float = typer.Option(1.0, "--speed", min=0.01, max=100.0, help="0.25 is four times slower than real time."),
    camera: str = typer.Option("", "--camera", help="Whose view to show (window: a free one; film: the first one)."),
    video: Path | None = typer.Option(
        None, "--video", metavar="FILE.mp4", help="Make a film instead of opening a window."
    ),
    size: int = typer.Option(384, "--size", min=64, max=1024, help="Height and width of the film in pixels."),
    seed: int = typer.Option(0, "--seed", help="Of the policy's own noise."),
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda or cuda:N."),
    rendering: str | None = typer.Option(None, "--rendering", metavar="BACKEND", help="auto, egl, osmesa or raycast."),
    plugin: list[str] | None = PluginOption,
    as_json: bool = JsonOption,
) -> None:
    """Play one episode in a window; where there is no display, into TASK.mp4.

    It is the episode that an evaluation plays: the same initial state, noise and rules.

    [bold]Examples[/bold]

    vla-cl watch mw5/window-close

    vla-cl watch window-close --policy runs/NAME --episode 3 --speed 0.25

    vla-cl watch tabletop_goal/turn-knob --perturb camera:large,distractors --video knob.mp4
    """
    load_plugins(plugin or [])
    from vla_cl.checkpoint import load_checkpoint
    from vla_cl.config import observation_for
    from vla_cl.envs import ObservationOptions, RenderingOptions
    from vla_cl.evaluation import EvaluationOptions
    from vla_cl.evaluation.watching import Film
    from vla_cl.evaluation.watching import watch as play
    from vla_cl.evaluation.window import Window, WindowClosed, has_display
    from vla_cl.tasks import find_task

    if instruction is not None and policy is None:
        raise ConfigurationError("--instruction is for a policy; the task's expert does what it knows")
    loaded = None if policy is None else load_checkpoint(policy, device=device, plugins=tuple(plugin or []))
    found = find_task(task)
    found = found if instruction is None else replace(found, instruction=instruction)
    options = EvaluationOptions(
        episodes=1,
        split=split,
        horizon=horizon,
        arguments=arguments_of(argument or []),
        perturbations=perturb.split(",") if perturb else [],
    )
    cameras: tuple[str, ...] | None = ()  # an expert needs none, but what perturbs pictures does
    if perturb:
        cameras = (camera,) if camera else None
    drawn = loaded.rendering if loaded else RenderingOptions()
    settings: dict[str, Any] = {
        "episode": episode,
        "stage": loaded.stage if loaded else 0,
        "options": options,
        "observation": observation_for(loaded.policy.config) if loaded else ObservationOptions(cameras),
        "rendering": replace(drawn, backend=rendering) if rendering else drawn,
        "seed": seed,
        "plugins": tuple(plugin or []),
    }
    controller = loaded.controller if loaded else None
    if video is None and has_display():
        with Window(camera, speed) as window:
            try:
                row = play(found, window, controller, **settings)
            except WindowClosed:
                return
            _tell(row, None, as_json)
            window.stay()
        return
    if video is None:
        progress().print("there is no display here, so this is filmed")
        video = Path(f"{found.name}.mp4")
    film = Film(camera, size, speed)
    row = play(found, film, controller, **settings)
    film.write(video)
    _tell(row, video, as_json)


def _tell(row: EpisodeRow, video: Path | None, as_json: bool) -> None:
    """How it ended, and where it can be seen."""
    if as_json:
        print_json({**asdict(row), "video": None if video is None else str(video)})
        return
    ended = "success" if row.success else f"no success ({row.failure})"
    results().print(f"{row.task}, episode {row.episode}: {ended} after {row.steps} steps", markup=False)
    if video is not None:
        progress().print(f"wrote {video}", soft_wrap=True, markup=False)
