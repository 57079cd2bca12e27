"""Progress of anything that takes over two seconds: a bar on a terminal, a log line elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")

Advance = Callable[[int], None]
"""Told how many units are done so far."""

logger = logging.getLogger(__name__)

bars = True
"""Whether bars may be drawn; a process that shares its terminal with others sets it to False."""


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Advance]:
    """Show progress towards `total` on standard error, and log one line with the duration at the end.

    On a terminal a bar lives as long as the block; elsewhere only the log line remains, so that files stay readable.

    Args:
        description: What is going on ("training window-close").
        total: Units of work.

    Yields:
        A function that takes the number of units done so far.
    """
    started = time.perf_counter()
    if bars and sys.stderr.isatty() and logger.isEnabledFor(logging.INFO):
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(description, total=total)
            yield lambda done: progress.update(task, completed=done)
    else:
        yield lambda done: None
    logger.info("%s: %.1f s", description, time.perf_counter() - started)


class Counter:
    """An `Advance` for callers that are told of one finished unit at a time."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.done = 0

    def __call__(self, _: object) -> None:
        self.done += 1
        self.advance(self.done)


def counted(things: Iterable[T], advance: Advance) -> Iterator[T]:
    """The things, while `advance` is told how many of them were asked for so far."""
    for done, thing in enumerate(things, start=1):
        yield thing
        advance(done)
