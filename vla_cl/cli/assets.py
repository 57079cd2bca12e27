"""`vla-cl assets`: files that simulators need and this package does not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from vla_cl.cli.output import JsonOption, print_json, print_table, results
from vla_cl.errors import ConfigurationError

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

_NAMED = 3


@app.callback()
def assets() -> None:
    """Find or download files that simulators need and this package does not hold.

    [bold]Examples[/bold]

    vla-cl assets list

    vla-cl assets fetch libero
    """


@app.command("list")
def list_assets(as_json: bool = JsonOption) -> None:
    """List what is found, where, and what is missing.

    Example: [bold]vla-cl assets list[/bold]
    """
    from vla_cl.envs.assets import ASSETS

    found = [_described(name) for name in ASSETS]
    if as_json:
        print_json(found)
        return
    for each in found:
        results().print(f"{each['name']}: {each['description']}", style="bold", soft_wrap=True, markup=False)
        if "error" in each:
            results().print(f"  {each['error']}", soft_wrap=True, markup=False)
            continue
        results().print(f"  {each['folder']} (by {each['found_by']})", soft_wrap=True, markup=False)
        rows = [
            [f"  {kind}", str(count), _missing(each["missing"].get(kind, []))]
            for kind, count in each["present"].items()
        ]
        print_table(["  kind", "there", "missing"], rows)


def _described(name: str) -> dict[str, Any]:
    from vla_cl.envs.assets import ASSETS

    source = ASSETS[name]
    described: dict[str, Any] = {"name": name, "description": source.description, "variable": source.variable}
    try:
        inventory = source.find()
    except ConfigurationError as error:
        return {**described, "error": str(error)}
    return {
        **described,
        "folder": str(inventory.folder),
        "found_by": inventory.found_by,
        "present": dict(inventory.present),
        "missing": {kind: [str(path) for path in paths] for kind, paths in inventory.missing.items()},
    }


def _missing(paths: list[str]) -> str:
    if not paths:
        return "-"
    names = ", ".join(Path(path).name for path in paths[:_NAMED])
    return f"{len(paths)}: {names}{', ...' if len(paths) > _NAMED else ''}"


@app.command("fetch")
def fetch(
    name: str = typer.Argument(..., help="Of the set of files: libero."),
    to: Path | None = typer.Option(
        None, "--to", metavar="FOLDER", help="Where to (default: in the user's cache, where it is looked for)."
    ),
) -> None:
    """Download a set of files. What it replaces is gone once the new files are whole.

    Example: [bold]vla-cl assets fetch libero --to /data/libero[/bold]
    """
    from vla_cl.envs.assets import ASSETS

    source = ASSETS[name]
    folder = source.fetch(to)
    hint = "" if to is None else f"; set {source.variable}={folder} to use it"
    results().print(f"{name} is in {folder}{hint}", soft_wrap=True, markup=False)
