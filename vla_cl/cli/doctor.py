"""`vla-cl doctor`: what of this machine works, and how to mend what does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import typer

from vla_cl.cli.output import JsonOption, print_json, results

COLOURS = {"ok": "green", "note": "yellow", "broken": "red"}


def doctor(
    folder: Path = typer.Option(Path(), "--output", help="Folder where runs would be written."),
    as_json: bool = JsonOption,
) -> None:
    """Check Python, packages, simulators, rendering, GPU and disk, and say how to mend what is broken.

    Ends with status 1 when something essential is broken.
    """
    from vla_cl.cli.checks import run_checks

    console = results()
    broken = []
    found = []
    for check in run_checks(folder):
        found.append(check)
        if check.status == "broken":
            broken.append(check.name)
        if not as_json:
            label = f"[{COLOURS[check.status]}]{check.status:<6}[/]"
            console.print(f"{label}  {check.name:<22}", end="", soft_wrap=True)
            console.print(f" {check.found}", markup=False, soft_wrap=True)
            if check.mend:
                console.print(f"        {'':<22} -> {check.mend}", markup=False, soft_wrap=True)
    if as_json:
        print_json([dataclasses.asdict(check) for check in found])
    elif broken:
        console.print(f"\n[red]broken:[/] {', '.join(broken)}")
    else:
        console.print("\neverything essential works")
    if broken:
        raise typer.Exit(1)
