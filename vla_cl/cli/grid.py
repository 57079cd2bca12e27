"""`vla-cl grid`: a paper's whole table with one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vla_cl.cli.compare import PAGE
from vla_cl.cli.output import print_table, progress, results
from vla_cl.cli.run import check, composed, print_config
from vla_cl.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vla_cl.grid import GridRun

FAILED = 1


def grid(
    overrides: list[str] | None = typer.Argument(
        None, metavar="[KEY=VALUE]...", help="What to run; several values (strategy=sequential,replay) span the grid."
    ),
    preset: str | None = typer.Option(None, "--preset", help="Start from a whole experiment, e.g. quickstart."),
    plugin: list[str] | None = typer.Option(
        None,
        "--plugin",
        metavar="FILE_OR_MODULE",
        help="A module, a Python file, a YAML declaration or a BDDL task that registers more; repeatable.",
    ),
    output: Path | None = typer.Option(None, "--output", help="Folder of all runs and of the table (default: runs)."),
    address: str | None = typer.Option(
        None, "--address", metavar="HOST:PORT", help="A running Ray cluster (default: the cores of this machine)."
    ),
    cores: int | None = typer.Option(None, "--cores", min=1, help="Of this machine to use (default: all)."),
    gpus: float | None = typer.Option(
        None, "--gpus", min=0.0, help="GPUs of a run; 0.25 lets four share one (default: 1 where there are some)."
    ),
    retries: int = typer.Option(2, "--retries", min=0, help="How often a run that broke or was killed is resumed."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print the resolved configurations and stop."),
) -> None:
    """Do many runs at once, and put them into one table: a row a strategy, its seeds and orders averaged.

    Each run has a folder that its configuration names, so runs that are there already are not done again, whoever
    did them, and an interrupted grid goes on when the same command is given again. A run that fails leaves the others
    alone; the exit status is then 1. The table is printed, and written as grid.md, grid.tex,
    grid.csv and grid.json; compare.html shows everything on one page.

    [bold]Examples[/bold]

    vla-cl grid suite=mw5 policy=lowdim_transformer strategy=sequential,replay,ewc seed=0,1,2

    vla-cl grid suite=mw5 policy=lowdim strategy=replay strategy.fraction=0,0.01,0.05,0.2,1 seed=0,1 --output sweep

    vla-cl grid --preset quickstart strategy=replay order=default,reversed seed=0,1,2 --address auto
    """
    configs = composed(overrides, preset, plugin, output)
    if dry_run:
        for config in configs:
            print_config(config)
        return
    from vla_cl.grid import grid_runs, run_grid
    from vla_cl.training import launched_count

    if (launched_count() or 1) > 1:
        raise ConfigurationError("a launcher is for vla-cl run; a grid starts the processes of its runs by itself")
    runs = grid_runs(configs)
    for run in runs:  # all of them, before the first takes its minutes
        check(run.config)

    from vla_cl.cli.grid_progress import watching

    with watching(runs) as watcher:
        run_grid(runs, watcher, retries=retries, address=address, cores=cores, gpus=gpus)
    _print_results(runs, Path(configs[0].output))


def _print_results(runs: Sequence[GridRun], folder: Path) -> None:
    """Print and write the table of what is done, and list what failed.

    Raises:
        Exit: Something did.
    """
    from vla_cl.evaluation.report.compare import write_compare_page
    from vla_cl.evaluation.report.comparison import compare_runs
    from vla_cl.evaluation.report.formats import table, write_comparison
    from vla_cl.grid import State

    done = [run.config.folder for run in runs if run.state is State.DONE]
    failed = [run for run in runs if run.state is State.FAILED]
    if done:
        rows = compare_runs(done)
        print_table(*table(rows))
        write_comparison(rows, folder / "grid", failed=[{"run": run.name, "reason": run.reason} for run in failed])
        page = write_compare_page(rows, folder / PAGE, left_out=[(run.name, run.reason) for run in failed])
        console = results()
        console.print(f"\ntable: {(folder / 'grid.md').resolve()} (.tex, .csv, .json)", soft_wrap=True, markup=False)
        console.print(f"comparison: {page.resolve()}", soft_wrap=True, markup=False)
    if failed:
        console = progress()
        console.print(f"{len(failed)} of {len(runs)} runs failed:")
        for run in failed:
            console.print(f"  {run.name}: {run.reason} (log: {run.log})", soft_wrap=True, markup=False)
        raise typer.Exit(FAILED)
