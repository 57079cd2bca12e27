"""`vla-cl probe`: what a finished run forgot, and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import typer

from vla_cl.cli.output import JsonOption, PluginOption, print_json, print_table, results
from vla_cl.errors import ConfigurationError
from vla_cl.registry import load_plugins

Number = TypeVar("Number", int, float)


def probe(
    run: Path = typer.Argument(..., help="Folder of a finished run.", show_default=False),
    drift: bool = typer.Option(False, "--drift", help="How far each layer's representation of old tasks moved (CKA)."),
    routing: bool = typer.Option(False, "--routing", help="Whose parameters act on which task, where that is chosen."),
    scale: bool = typer.Option(False, "--scale", help="Act with less of what was learned since a forgotten task."),
    recovery: bool = typer.Option(False, "--recovery", help="How few steps of fine-tuning bring a task back."),
    task: list[str] | None = typer.Option(None, "--task", help="Only this task; repeatable."),
    episodes: int = typer.Option(20, "--episodes", min=1, help="Of each success rate, from selection states."),
    steps: str | None = typer.Option(
        None, "--steps", metavar="N,N,...", help="Of fine-tuning (default: 1, 2, 5, 10, 20 % of the run's)."
    ),
    few: int | None = typer.Option(
        None, "--few", min=1, help="Steps within which a hidden skill comes back (default: 5 % of the run's)."
    ),
    rate: float | None = typer.Option(None, "--learning-rate", help="Of the fine-tuning (default: the run's peak)."),
    control: bool = typer.Option(
        True, "--control/--no-control", help="Compare recovery with learning the task for the first time."
    ),
    scales: str = typer.Option(
        "0,0.25,0.5,0.75,0.9,1", "--scales", metavar="S,S,...", help="Of what was learned since."
    ),
    share: float = typer.Option(0.9, "--share", help="Of its former success that makes a task count as back."),
    windows: int = typer.Option(256, "--windows", min=4, help="Of a task's demonstrations, to measure drift on."),
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda or cuda:N."),
    processes: int | None = typer.Option(None, "--processes", min=1, help="Simulator processes (default: one a core)."),
    data: Path | None = typer.Option(None, "--data", metavar="FOLDER", help="Demonstrations (default: the run's)."),
    picture: Path | None = typer.Option(None, "--picture", metavar="FILE.png", help="Draw what was found."),
    plugin: list[str] | None = PluginOption,
    as_json: bool = JsonOption,
) -> None:
    """Find out what a finished run forgot, and whether it is lost or only hidden.

    Without a choice of probes, all are made. Results go to RUN/probes and into the run's report; what is there under
    the same options is not measured again. No probe looks at a test state.

    [bold]Examples[/bold]

    vla-cl probe runs/mw5-lowdim-sequential-seed0-1a2b3c4d

    vla-cl probe runs/NAME --recovery --steps 5,10,20,50 --task window-close

    vla-cl probe runs/NAME --drift --routing --json
    """
    load_plugins(plugin or [])
    from vla_cl.probes import ProbeOptions, probe_run

    options = ProbeOptions(
        episodes=episodes,
        share=share,
        steps=None if steps is None else _numbers("--steps", steps, int),
        few=few,
        rate=rate,
        control=control,
        scales=_numbers("--scales", scales, float),
        windows=windows,
        tasks=tuple(task or ()),
        device=device,
        processes=processes,
    )
    wanted = {"drift": drift, "routing": routing, "scale": scale, "recovery": recovery}
    folder = probe_run(run, [name for name, asked in wanted.items() if asked], options, data)
    if picture is not None:
        from vla_cl.evaluation.report.probe_figure import save_probe_figure

        save_probe_figure(run, picture)
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    if as_json:
        print_json(found)
        return
    if not found:
        results().print("nothing to probe: no task came after another, and no parameters are chosen between")
        return
    _print_verdicts(found.get("verdicts", {"tasks": {}})["tasks"])
    _print_drift(found.get("drift", {"tasks": {}})["tasks"])
    _print_routing(found.get("routing", {"tasks": {}})["tasks"])
    results().print(f"results: {folder.resolve()}", soft_wrap=True)


def _numbers(option: str, text: str, kind: type[Number]) -> tuple[Number, ...]:
    try:
        return tuple(kind(word) for word in text.split(","))
    except ValueError:
        raise ConfigurationError(f"{option} must be numbers separated by commas, got {text!r}") from None


def _print_verdicts(tasks: dict[str, Any]) -> None:
    if not tasks:
        return
    columns = ["task", "right after", "in the end", "back at scale", "relearned in", "learned at first in", "so it is"]
    rows = []
    for name, each in tasks.items():
        forgotten = each["outcome"] != "kept"
        rows.append(
            [
                name,
                *(f"{each[key] / each['episodes']:.2f}" for key in ("former", "final")),
                "-" if not each["scaled"] else "none" if each["scale"] is None else f"{each['scale']:g}",
                _steps(each["relearned"], each["steps"]) if forgotten else "-",
                _steps(each["first"], each["steps"]) if forgotten else "-",
                each["outcome"],
            ]
        )
    print_table(columns, rows, title="what was forgotten, from selection states")
    results().print()


def _steps(steps: int | None, tried: int | None) -> str:
    if tried is None:
        return "-"
    return f"over {tried} steps" if steps is None else f"{steps} steps"


def _print_drift(tasks: dict[str, Any]) -> None:
    if not tasks:
        return
    layers = list(dict.fromkeys(layer for each in tasks.values() for layer in each["layers"]))
    print_table(
        ["layer", *tasks],
        [[layer, *(_similarity(each, layer) for each in tasks.values())] for layer in layers],
        title="likeness of layers right after a task and in the end (unbiased linear CKA; 1: no drift)",
    )
    results().print()


def _similarity(found: dict[str, Any], layer: str) -> str:
    known = found["layers"]
    return f"{found['unbiased_cka'][-1][known.index(layer)]:.2f}" if layer in known and found["stages"] else "-"


def _print_routing(tasks: dict[str, Any]) -> None:
    from vla_cl.evaluation.routing_metrics import NOBODY, summarise_routing

    if not tasks:
        return
    columns = list(dict.fromkeys([*tasks, *(name for each in tasks.values() for name in each["confusion"])]))
    print_table(
        ["task", *(name if name != NOBODY else "no task" for name in columns), "right"],
        [
            [
                name,
                *(f"{each['confusion'].get(column, 0.0):.2f}" for column in columns),
                "-" if each["accuracy"] is None else f"{each['accuracy']:.2f}",
            ]
            for name, each in tasks.items()
        ],
        title="whose parameters acted most on each task, share of decisions",
    )
    summary = summarise_routing(tasks)
    told = {key.replace("_", " "): value for key, value in summary.items() if value is not None}
    results().print(", ".join(f"{key} {value:.2f}" for key, value in told.items()), soft_wrap=True)
    results().print()
