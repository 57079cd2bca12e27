"""How a grid shows what is going on: a table that lives on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vla_cl.errors import VlaClError
from vla_cl.grid import GridRun, State, Watcher, progress_of

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_SHOWN = 20
"""Lines of the table: of a large grid, those that run."""


@contextmanager
def watching(runs: Sequence[GridRun]) -> Iterator[Watcher]:
    """What `run_grid` tells of its runs."""
    console = Console(stderr=True, highlight=False)
    if not (sys.stderr.isatty() and logger.isEnabledFor(logging.INFO)):
        yield LogLines(runs)
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:
        yield LiveTable(live, runs)


class LogLines:
    """A line for whatever happens, with the run's name before those of its process."""

    def __init__(self, runs: Sequence[GridRun]) -> None:
        self.runs = runs

    def line(self, run: GridRun, text: str) -> None:
        """A run's process wrote a line."""
        logger.info("%s: %s", run.name, text)

    def changed(self, run: GridRun) -> None:
        """A run's state or reason is another."""
        level = logging.WARNING if run.state is State.FAILED else logging.INFO
        logger.log(
            level, "%s %s%s; %s", run.name, run.state, f": {run.reason}" if run.reason else "", _counts(self.runs)
        )

    def look(self, runs: Sequence[GridRun]) -> None:
        """Nothing is drawn."""


class LiveTable:
    """The runs that are going on, how far each is, and how many wait, are done or failed."""

    def __init__(self, live: Live, runs: Sequence[GridRun]) -> None:
        self.live = live
        self.runs = runs
        self.drawn = 0.0

    def line(self, run: GridRun, text: str) -> None:
        """A run's process wrote a line; it goes above the table."""
        self.live.console.print(f"{run.name}: {text}", soft_wrap=True, markup=False)

    def changed(self, run: GridRun) -> None:
        """A run's state or reason is another."""
        if run.reason:
            self.line(run, f"{run.state}: {run.reason}")
        self.drawn = 0.0

    def look(self, runs: Sequence[GridRun]) -> None:
        """Draw, now and then: each running run's folder is looked into."""
        if time.monotonic() - self.drawn >= _LOOK_SECONDS:
            self.live.update(runs_table(runs), refresh=True)
            self.drawn = time.monotonic()


def runs_table(runs: Sequence[GridRun]) -> Table:
    """The table of a grid in progress."""
    drawn = Table(box=None, header_style="bold", pad_edge=False, caption=_counts(runs), caption_justify="left")
    for column in ("running", "", "attempt"):
        drawn.add_column(column, no_wrap=True)
    running = [run for run in runs if run.state is State.RUNNING]
    for run in running[:_SHOWN]:
        drawn.add_row(Text(run.name), Text(_place(run)), Text(str(run.attempts)))
    if len(running) > _SHOWN:
        drawn.add_row(Text(f"and {len(running) - _SHOWN} more"))
    return drawn


def _place(run: GridRun) -> str:
    try:
        return str(progress_of(run.config))
    except (OSError, VlaClError):  # a folder that changes under our eyes is looked at again soon
        return ""


def _counts(runs: Sequence[GridRun]) -> str:
    counts = {state: sum(run.state is state for run in runs) for state in State}
    return ", ".join(f"{count} {state}" for state, count in counts.items())
