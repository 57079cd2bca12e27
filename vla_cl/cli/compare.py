"""`vla-cl compare`: any set of runs in one table and on one page."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from vla_cl.cli.output import print_table, progress, results
from vla_cl.errors import ConfigurationError

PAGE = "compare.html"


def compare(
    folders: list[Path] = typer.Argument(
        ..., metavar="RUN_OR_FOLDER...", help="Folders of runs, or folders that hold some, such as a grid's."
    ),
    output: Path | None = typer.Option(
        None,
        "--output",
        metavar="FILE.html",
        help="Where to write; the tables go beside it (default: compare.html in the folder, or here).",
    ),
    table_format: str | None = typer.Option(
        None, "--format", metavar="md|tex|csv|json", help="Print the table in this format, and write nothing."
    ),
    videos: float = typer.Option(
        30.0, "--videos", metavar="MB", min=0.0, help="Of films in the page, at most; what was forgotten comes first."
    ),
) -> None:
    """Put runs side by side, a row a strategy, its seeds and orders averaged: a table, and a page to look around in.

    The page is one file that needs no network: success matrices, forgetting and learning curves, success over bytes and
    over time, ranks with intervals, films before and after forgetting, failures; it filters by strategy, policy, suite,
    order, seed and text. Unfinished runs are left out, and named. Runs that were not measured alike stand apart.

    [bold]Examples[/bold]

    vla-cl compare runs

    vla-cl compare runs/mw5-lowdim-* sweep --output comparison.html

    vla-cl compare runs --format tex > table.tex
    """
    from vla_cl.evaluation.report.compare import write_compare_page
    from vla_cl.evaluation.report.comparison import compare_runs, finished_runs
    from vla_cl.evaluation.report.formats import FORMATS, as_text, table, write_comparison

    if table_format is not None and table_format not in FORMATS:
        raise ConfigurationError(f"--format must be one of {', '.join(FORMATS)}, got {table_format!r}")
    found, left_out = finished_runs(folders)
    for folder, reason in left_out:
        progress().print(f"left out {folder}: {reason}", soft_wrap=True, markup=False)
    rows = compare_runs(found)
    if table_format is not None:
        sys.stdout.write(as_text(rows, table_format))
        return
    path = output or (folders[0] if len(folders) == 1 and folders[0] not in found else Path()) / PAGE
    if path.suffix != ".html":
        raise ConfigurationError(f"--output must name a file that ends in .html, got {path}")
    write_comparison(rows, path.with_suffix(""))
    told = [(folder.name, reason) for folder, reason in left_out]
    write_compare_page(rows, path, left_out=told, film_megabytes=videos)
    print_table(*table(rows))
    endings = ", ".join(f".{ending}" for ending in FORMATS)
    results().print(f"\ncomparison: {path.resolve()} ({endings})", soft_wrap=True, markup=False)
