"""What the commands write to the terminal: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

PIPE_WIDTH = 1000

PluginOption = typer.Option(
    None,
    "--plugin",
    metavar="FILE_OR_MODULE",
    help="A module, a Python file, a YAML declaration or a BDDL task that registers more; repeatable.",
)
JsonOption = typer.Option(False, "--json", help="Print JSON, for other programs.")


def results() -> Console:
    """The console for what a command was asked for. A pipe gets whole lines, however long."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def progress() -> Console:
    """The console for progress and notes."""
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Write a JSON document to stdout."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Write a table to stdout; cells are plain text."""
    from rich.text import Text

    console = results()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=not console.is_terminal)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if title:
        console.print(title, style="italic")
    console.print(table)


def first_sentence(documented: object) -> str:
    """The first line of a docstring, without its full stop."""
    lines = (documented.__doc__ or "").strip().splitlines()
    return lines[0].rstrip(".") if lines else ""
