"""`vla-cl report`: one self-contained page about one or several runs."""

from __future__ import annotations

from pathlib import Path

import typer

from vla_cl.cli.output import results


def report(
    runs: list[Path] = typer.Argument(..., metavar="RUN...", help="Folders of runs, shown side by side."),
    output: Path | None = typer.Option(
        None, "--output", metavar="FILE.html", help="Where to write (default: into the run; report.html for several)."
    ),
) -> None:
    """Write a self-contained HTML report: success matrix, forgetting curves, metrics, videos, cost.

    Example: [bold]vla-cl report runs/mw5-lowdim-* --output comparison.html[/bold]
    """
    from vla_cl.cli.run import print_summary
    from vla_cl.evaluation.report import write_report

    path = output or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    written = write_report(runs, path)
    print_summary([run for run in runs if (run / "metrics.json").exists()])
    results().print(f"\nreport: {written.resolve()}", soft_wrap=True)
