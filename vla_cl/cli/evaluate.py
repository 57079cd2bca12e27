"""`vla-cl evaluate`: success rates of a checkpoint, or of a served policy, with intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import typer

from vla_cl.cli.output import JsonOption, PluginOption, print_json, print_table
from vla_cl.cli.serve import TokenOption
from vla_cl.cli.values import arguments_of
from vla_cl.errors import ConfigurationError
from vla_cl.registry import load_plugins

if TYPE_CHECKING:
    from vla_cl.evaluation import EpisodeRow, EvaluationOptions

DEFAULT_EPISODES = 50
LANGUAGE = ("canonical", "paraphrased", "held_out", "swapped", "dropped")
"""Of `--language`: the right words, other right ones, and wrong ones."""


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
    output: Path | None = typer.Option(None, "--output", metavar="FILE.jsonl", help="Write one row an episode here."),
    videos: Path | None = typer.Option(None, "--videos", metavar="FOLDER", help="Film each task's first episode here."),
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
    """
    if (checkpoint is None) == (server is None):
        raise ConfigurationError("evaluate takes either a checkpoint or --server ADDRESS")
    if server is not None and device != "auto":
        raise ConfigurationError("--device is the server's business; give it to vla-cl serve")
    if language and instructions is not None:
        raise ConfigurationError("--language tries all --instructions; give one of the two")
    if language and videos is not None:
        raise ConfigurationError("--language films nothing; leave out --videos, or film one of the --instructions")
    load_plugins(plugin or [])
    from vla_cl.checkpoint import evaluate_checkpoint, evaluate_server
    from vla_cl.config import protocol_options
    from vla_cl.evaluation import EarlyStop, write_rows

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
    )

    if server is not None:
        evaluated = partial(evaluate_server, server, token=token)
    else:
        assert checkpoint is not None
        evaluated = partial(evaluate_checkpoint, checkpoint, device=device)
    evaluated = partial(
        evaluated, suite=suite, tasks=task or None, seed=seed, rendering=rendering, plugins=tuple(plugin or [])
    )
    if language:
        by_kind = under_all_instructions(evaluated, options)
        if output is not None:
            write_rows(output, [row for rows in by_kind.values() for row in rows])
        _print_language(by_kind, as_json)
        return
    rows = evaluated(options=options, video_folder=videos)
    if output is not None:
        write_rows(output, rows)
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


def under_all_instructions(
    evaluated: Callable[..., list[EpisodeRow]], options: EvaluationOptions
) -> dict[str, list[EpisodeRow]]:
    """The rows under each kind of instructions that all tasks have, the right ones first."""
    by_kind: dict[str, list[EpisodeRow]] = {}
    for kind in LANGUAGE:
        try:
            by_kind[kind] = evaluated(options=replace(options, instructions=kind, videos=0), video_folder=None)
        except ConfigurationError:
            if kind not in ("held_out", "swapped"):  # which not all tasks have, and which takes two
                raise
    return by_kind


def _print_language(by_kind: dict[str, list[EpisodeRow]], as_json: bool) -> None:
    """Success by task and kind, and how much of it hangs on the words."""
    from vla_cl.evaluation.metrics import language_sensitivity

    names = _names(by_kind["canonical"])
    rates = {
        kind: [_summary(name, [row for row in rows if row.task == name])["success_rate"] for name in names]
        for kind, rows in by_kind.items()
    }
    sensitivity = {kind: language_sensitivity(rates["canonical"], each).tolist() for kind, each in rates.items()}
    if as_json:
        print_json({"tasks": names, "success_rate": rates, "sensitivity": sensitivity})
        return
    print_table(
        ["task", *(kind.replace("_", " ") for kind in rates)],
        [
            *([name, *(f"{rates[kind][place]:.2f}" for kind in rates)] for place, name in enumerate(names)),
            ["mean", *(f"{fmean(rates[kind]):.2f}" for kind in rates)],
            ["lost by it", *(f"{fmean(sensitivity[kind]):+.2f}" for kind in rates)],
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
