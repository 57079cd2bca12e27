"""`vla-cl evaluate`: success rates of a checkpoint, or of a served policy, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vla_cl.cli.conditions import (
    UNPERTURBED,
    draw_conditions,
    perturbed_in_turn,
    print_costs,
    print_language,
    told_in_turn,
)
from vla_cl.cli.output import JsonOption, PluginOption, print_json, print_table
from vla_cl.cli.serve import TokenOption
from vla_cl.cli.values import arguments_of
from vla_cl.errors import ConfigurationError
from vla_cl.registry import load_plugins

if TYPE_CHECKING:
    from vla_cl.evaluation import EpisodeRow

DEFAULT_EPISODES = 50


def evaluate(
    checkpoint: Path | None = typer.Argument(
        None, help="A run's folder (its last checkpoint), or a checkpoint's folder.", show_default=False
    ),
    server: str | None = typer.Option(
        None, "--server", metavar="ADDRESS", help="In place of a checkpoint: where vla-cl serve serves one."
    ),
    token: str | None = TokenOption,
    suite: str | None = typer.Option(None, "--suite", help="Tasks to try (default: those that the run learned)."),
    task: list[str] | None = typer.Option(None, "--task", help="Only this task; repeatable."),
    protocol: str = typer.Option(
        "default", "--protocol", help="A published way to evaluate: libero_paper, vla_paper or continual_world."
    ),
    episodes: int | None = typer.Option(
        None, "--episodes", min=1, help="Episodes of each task (default: the protocol's, else 50)."
    ),
    split: str | None = typer.Option(
        None, "--split", help="Initial states: test (default), or selection to choose between models."
    ),
    instructions: str | None = typer.Option(
        None,
        "--instructions",
        help="What the policy is told: canonical (default), paraphrased, held_out, declared, swapped or dropped.",
    ),
    language: bool = typer.Option(
        False,
        "--language",
        help="Whether it listens: from the same initial states under the right and the wrong words.",
    ),
    perturb: list[str] | None = typer.Option(
        None,
        "--perturb",
        metavar="LIST",
        help="Also under these perturbations, from the same initial states: camera,light:large,camera+texture, or all "
        "(vla-cl perturbations).",
    ),
    horizon: int | None = typer.Option(
        None, "--horizon", min=1, help="Steps until an episode is truncated (default: the protocol's, else the task's)."
    ),
    stop_at: float | None = typer.Option(
        None,
        "--stop-at",
        metavar="RATE",
        help="Stop a task early once its success rate is surely above or below this.",
    ),
    stop_width: float | None = typer.Option(
        None, "--stop-width", metavar="WIDTH", help="Stop a task early once its success rate is known this closely."
    ),
    argument: list[str] | None = typer.Option(
        None, "--argument", metavar="KEY=VALUE", help="Of the tasks' simulator, e.g. settle_steps=5; repeatable."
    ),
    seed: int = typer.Option(0, "--seed", help="Of the policy's own noise."),
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda or cuda:N."),
    rendering: str | None = typer.Option(
        None, "--rendering", metavar="BACKEND", help="auto, egl, osmesa or raycast (default: the run's)."
    ),
    processes: int | None = typer.Option(None, "--processes", min=1, help="Simulator processes (default: one a core)."),
    workers: str = typer.Option(
        "local", "--workers", metavar="WHERE", help="Where simulators run: local, ray, or HOST:PORT of a Ray cluster."
    ),
    output: Path | None = typer.Option(None, "--output", metavar="FILE.jsonl", help="Write one row an episode here."),
    videos: Path | None = typer.Option(None, "--videos", metavar="FOLDER", help="Film each task's first episode here."),
    picture: Path | None = typer.Option(
        None, "--picture", metavar="FILE.png", help="With --perturb: draw what the policy sees under each."
    ),
    plugin: list[str] | None = PluginOption,
    as_json: bool = JsonOption,
) -> None:
    """Roll a checkpoint out and print success rates with 95 % intervals.

    They are Wilson's, or of a confidence sequence where a task may stop early. Every checkpoint meets the same initial
    states, so two of them are compared episode by episode.

    [bold]Examples[/bold]

    vla-cl evaluate runs/mw5-lowdim-replay-seed0-1a2b3c4d --episodes 100

    vla-cl evaluate runs/NAME/checkpoints/stage_02 --suite cw10 --task hammer --videos films

    vla-cl evaluate runs/NAME --suite libero_spatial --protocol vla_paper

    vla-cl evaluate --server ws://127.0.0.1:8765 --suite mw5

    vla-cl evaluate runs/NAME --language

    vla-cl evaluate runs/NAME --perturb camera,light,action_delay=2 --picture seen.png
    """
    if (checkpoint is None) == (server is None):
        raise ConfigurationError("evaluate takes either a checkpoint or --server ADDRESS")
    if server is not None and device != "auto":
        raise ConfigurationError("--device is the server's business; give it to vla-cl serve")
    if language and instructions is not None:
        raise ConfigurationError("--language tries all --instructions; give one of the two")
    if language and perturb:
        raise ConfigurationError("--language and --perturb each try several conditions; give one of the two")
    if (language or perturb) and videos is not None:
        raise ConfigurationError(
            "--language and --perturb film nothing; leave out --videos (vla-cl watch films one condition)"
        )
    if (language or perturb) and (stop_at is not None or stop_width is not None):
        raise ConfigurationError("--language and --perturb compare the same episodes; leave out early stopping")
    if picture is not None and not perturb:
        raise ConfigurationError("--picture draws what --perturb does; say which perturbations")
    load_plugins(plugin or [])
    from vla_cl.checkpoint import checkpoint_trial, evaluate_trial, server_trial
    from vla_cl.evaluation import EarlyStop, write_rows
    from vla_cl.protocols import protocol_options

    changes: dict[str, Any] = {"episodes": episodes, "split": split, "instructions": instructions, "horizon": horizon}
    given = {key: value for key, value in changes.items() if value is not None}
    if stop_at is not None or stop_width is not None:
        given["early_stop"] = EarlyStop(threshold=stop_at, width=stop_width)
    options = protocol_options(
        protocol,
        **({"episodes": DEFAULT_EPISODES} if protocol == "default" else {}) | given,
        arguments=arguments_of(argument or []),
        videos=1 if videos else 0,
        processes=processes,
        workers=workers,
    )

    conditions = perturbed_in_turn(perturb or [], options)
    plugins, left_out = tuple(plugin or []), ""
    if server is not None:
        opened = server_trial(server, token=token, suite=suite, tasks=task, rendering=rendering, plugins=plugins)
    else:
        assert checkpoint is not None
        opened = checkpoint_trial(
            checkpoint, suite=suite, tasks=task, device=device, rendering=rendering, plugins=plugins
        )
    with opened as trial:
        if language:
            conditions, left_out = told_in_turn(trial.tasks, options)
        elif not perturb:
            conditions = {UNPERTURBED: options}
        if picture is not None:
            draw_conditions(trial, conditions, picture, plugins)
        measured = evaluate_trial(trial, [*conditions.values()], seed=seed, plugins=plugins, video_folder=videos)
    rows = [row for rows in measured for row in rows]
    if output is not None:
        write_rows(output, rows)
    by_condition = dict(zip(conditions, measured, strict=True))
    if language:
        print_language(by_condition, left_out, as_json)
        return
    if perturb:
        print_costs(by_condition, as_json)
        return
    results = [_summary(name, [row for row in rows if row.task == name]) for name in _names(rows)]
    if as_json:
        print_json(results)
        return
    print_table(
        ["task", "successes", "success rate", "95 % interval"],
        [
            [
                each["task"],
                f"{each['successes']} of {each['episodes']}{', stopped' if each['stopped_early'] else ''}",
                f"{each['success_rate']:.2f}",
                "{:.2f} to {:.2f}".format(*each["interval"]),
            ]
            for each in results
        ],
    )


def _names(rows: list[EpisodeRow]) -> list[str]:
    """Names of the tasks, in the order in which they were tried."""
    return list(dict.fromkeys(row.task for row in rows))


def _summary(task: str, rows: list[EpisodeRow]) -> dict[str, Any]:
    """Successes of one task, with the interval in which its success rate lies."""
    from vla_cl.evaluation import confidence_sequence, wilson_interval
    from vla_cl.evaluation.stopping import STOPPED

    successes, episodes = sum(row.success for row in rows), len(rows)
    interval = confidence_sequence if any(row.stopping for row in rows) else wilson_interval
    lower, upper = interval(successes, episodes)
    return {
        "task": task,
        "successes": successes,
        "episodes": episodes,
        "success_rate": successes / episodes,
        "interval": [float(lower), float(upper)],
        "stopped_early": rows[-1].stopping == STOPPED,
    }
