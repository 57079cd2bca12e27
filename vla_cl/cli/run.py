"""`vla-cl run`: one experiment, or a sweep of them, from demonstrations to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vla_cl.cli.output import print_table, progress, results

if TYPE_CHECKING:
    from vla_cl.config import ExperimentConfig

SHOWN_METRICS = ("learning_accuracy", "final_average", "forgetting", "backward_transfer", "seconds")


def run(
    overrides: list[str] | None = typer.Argument(
        None, metavar="[KEY=VALUE]...", help="What to run; several values (strategy=sequential,replay) are run in turn."
    ),
    preset: str | None = typer.Option(None, "--preset", help="Start from a whole experiment, e.g. quickstart."),
    plugin: list[str] | None = typer.Option(
        None,
        "--plugin",
        metavar="FILE_OR_MODULE",
        help="A module, a Python file, a YAML declaration or a BDDL task that registers more; repeatable.",
    ),
    output: Path | None = typer.Option(None, "--output", help="Folder of all runs (default: runs)."),
    jobs: int = typer.Option(1, "--jobs", min=1, help="Runs of a sweep at the same time, one core each."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print the resolved configuration and stop."),
) -> None:
    """Learn the tasks of a suite one after another, and measure what is forgotten.

    Each run has a folder that its configuration names. A run that was interrupted, or killed, goes on where it
    stopped when the same command is given again; a finished one is not run twice.

    [bold]Examples[/bold]

    vla-cl run --preset quickstart strategy=sequential,replay

    vla-cl run suite=mw5 policy=lowdim strategy=replay strategy.fraction=0.1 seed=0,1,2

    vla-cl run suite=cw10 policy=compact strategy=ewc order=reversed length=5 training.steps=3000
    """
    configs = composed(overrides, preset, plugin, output)
    if dry_run:
        for config in configs:
            print_config(config)
        return

    for config in configs:  # all of a sweep, before the first takes its minutes
        check(config)

    from vla_cl.cli.jobs import run_all
    from vla_cl.cli.launched import launched
    from vla_cl.evaluation.report import write_report

    with launched(configs, jobs) as is_first:
        if not is_first:
            return
        for config in configs:
            progress().print(f"run {config.folder}", soft_wrap=True, markup=False)
        folders = run_all(configs, jobs)
    report = folders[0] / "report.html"
    if len(folders) > 1:
        report = write_report(folders, Path(configs[0].output) / "report.html")
    print_summary(folders)
    results().print(f"\nreport: {report.resolve()}", soft_wrap=True)


def composed(
    overrides: list[str] | None, preset: str | None, plugin: list[str] | None, output: Path | None
) -> list[ExperimentConfig]:
    """The configurations that the command line describes."""
    from vla_cl.config import compose

    words = list(overrides or [])
    if plugin:
        words.append(f"plugins={_quoted(plugin)}")
    if output is not None:
        words.append(f"output={_quoted_text(str(output))}")
    return compose(words, preset)


def check(config: ExperimentConfig) -> None:
    """Fail on what can be known to be wrong before any work is done.

    Raises:
        VlaClError: The suite, the order, the length, the protocol, the data set, the device, the policy's parts, the
            strategy or one of their options cannot be used.
    """
    from vla_cl.config import check_chunk
    from vla_cl.data import given_demonstrations
    from vla_cl.envs.assets import use_asset_roots
    from vla_cl.evaluation import check_task
    from vla_cl.federation import check_federation
    from vla_cl.needs import check_boundaries, check_protocol, check_training
    from vla_cl.policies import check_policy
    from vla_cl.strategies import build_strategy
    from vla_cl.tasks import get_suite
    from vla_cl.training import resolve_device

    use_asset_roots(config.assets)
    sequence = get_suite(config.suite).sequence(config.order, config.length)
    check_chunk(config, sequence)
    for task in sequence:
        check_task(task, config.evaluation, config.plugins, sequence)
        task.instructions(config.training.instructions)
    if config.dataset is not None:
        given_demonstrations(Path(config.dataset), sequence)
    resolve_device(config.device)
    strategy = build_strategy(config.strategy["name"], config.strategy_options, config.seed)
    check_boundaries(config, strategy)
    check_protocol(config, strategy)
    check_training(config, strategy)
    check_federation(config, strategy, len(sequence))
    check_policy(config.policy)


def print_summary(folders: list[Path]) -> None:
    """Print the main numbers of each run, one line a run."""
    rows = []
    for folder in folders:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        rows.append([folder.name, *(_shown(name, metrics.get(name)) for name in SHOWN_METRICS)])
    print_table(["run", *(name.replace("_", " ") for name in SHOWN_METRICS)], rows)


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if name == "seconds" else f"{value:.2f}"


def print_config(config: ExperimentConfig) -> None:
    """Print a resolved configuration as YAML, under the folder of its run."""
    from omegaconf import OmegaConf

    from vla_cl.config import to_dict

    console = results()
    console.print(f"# {config.folder}", soft_wrap=True, markup=False)
    console.print(OmegaConf.to_yaml(OmegaConf.create(to_dict(config))), soft_wrap=True, markup=False)


def _quoted_text(text: str) -> str:
    """A value in Hydra's grammar, whatever characters it holds."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _quoted(texts: list[str]) -> str:
    return "[" + ",".join(_quoted_text(text) for text in texts) + "]"
