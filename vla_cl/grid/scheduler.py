"""Doing the runs of a grid: send them, watch them, start again those that were killed, skip those that are done."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from vla_cl.errors import VlaClError
from vla_cl.grid.cluster import Cluster, connected
from vla_cl.grid.runs import GridRun, Outcome, State
from vla_cl.run_folder import RunFolder

BUSY_SECONDS = 10.0
"""After which a run that another process is doing is asked for again."""

_LOOK_SECONDS = 0.5


class Watcher(Protocol):
    """Is told what happens."""

    def line(self, run: GridRun, text: str) -> None:
        """A run's process wrote a line."""

    def changed(self, run: GridRun) -> None:
        """A run's state or reason is another."""

    def look(self, runs: Sequence[GridRun]) -> None:
        """Some time has passed; called about twice a second."""


def run_grid(
    runs: Sequence[GridRun],
    watcher: Watcher,
    *,
    retries: int = 2,
    address: str | None = None,
    cores: int | None = None,
    gpus: float | None = None,
) -> None:
    """Do all runs; afterwards each is done or failed. Runs that are finished already are not touched.

    A run whose process was killed, or broke, is started again from its last checkpoint, up to `retries` times. One
    that fails leaves the others alone. However this ends, the runs that it started end too, and the same call goes on
    where they stopped.

    Args:
        runs: See `grid_runs`; their states are changed in place.
        watcher: Is told of everything.
        retries: How often a run is started again.
        address, cores, gpus: See `vla_cl.grid.cluster.connected`.

    Raises:
        ConfigurationError: There is no Ray.
    """
    for run in runs:
        if _is_finished(run):
            run.state = State.DONE
            watcher.changed(run)
    if all(run.state is not State.WAITING for run in runs):
        return
    with connected(address, cores, gpus) as cluster, _Schedule(cluster, runs, watcher, retries).ending() as schedule:
        while schedule.step():
            watcher.look(runs)


class _Schedule:
    """The runs that were sent, and those that wait for their time."""

    def __init__(self, cluster: Cluster, runs: Sequence[GridRun], watcher: Watcher, retries: int) -> None:
        self.cluster = cluster
        self.watcher = watcher
        self.retries = retries
        self.level = logging.getLogger("vla_cl").level
        self.sent: dict[Any, GridRun] = {}
        self.read: dict[str, int] = {}
        """Bytes of each run's log that were passed on."""
        self.later = [(0.0, run) for run in runs if run.state is State.WAITING]
        """When a run is to be sent, and the run."""

    @contextmanager
    def ending(self) -> Iterator[_Schedule]:
        """Whatever happens, no run outlives the block."""
        try:
            yield self
        finally:
            self.cluster.cancel(list(self.sent))

    def step(self) -> bool:
        """Send what is due, take what ended, pass on what was written. False when all is over."""
        now = time.monotonic()
        due = [run for when, run in self.later if when <= now]
        self.later = [(when, run) for when, run in self.later if when > now]
        for run in due:
            run.attempts += 1
            self.read[run.name] = run.log.stat().st_size if run.log.exists() else 0
            self.sent[self.cluster.submit(run.config, run.log, self.level, run.attempts)] = run
        if not self.sent:
            time.sleep(_LOOK_SECONDS if self.later else 0.0)
            return bool(self.later)
        ended = self.cluster.wait(list(self.sent), _LOOK_SECONDS)
        for run in self.sent.values():
            self._pass_on(run)
        for each in ended:
            self._take(self.sent.pop(each), each)
        return bool(self.sent or self.later)

    def _take(self, run: GridRun, sent: Any) -> None:
        """An attempt ended."""
        try:
            outcome, reason = self.cluster.result(sent)
        except ProcessLookupError as error:
            outcome, reason = Outcome.BROKEN, f"its process was killed ({error})"
        self._pass_on(run, all_of_it=True)
        run.reason = reason
        if outcome is Outcome.BUSY:
            run.state = State.WAITING
            run.attempts -= 1
            self.later.append((time.monotonic() + BUSY_SECONDS, run))
        elif outcome is Outcome.BROKEN and run.attempts <= self.retries:
            run.state = State.WAITING
            self.later.append((0.0, run))
        else:
            run.state = State.DONE if outcome is Outcome.DONE else State.FAILED
        self.watcher.changed(run)

    def _pass_on(self, run: GridRun, all_of_it: bool = False) -> None:
        """Tell the watcher what the run's process wrote since; its first word says that it runs."""
        if not run.log.exists():
            return
        with open(run.log, "rb") as file:
            file.seek(self.read[run.name])
            text = file.read()
        whole = len(text) if all_of_it else text.rfind(b"\n") + 1
        self.read[run.name] += whole
        if whole and run.state is State.WAITING:
            run.state = State.RUNNING
            self.watcher.changed(run)
        for line in text[:whole].decode("utf-8", "replace").splitlines():
            self.watcher.line(run, line)


def _is_finished(run: GridRun) -> bool:
    try:
        return RunFolder(run.config.folder).is_finished(run.config)
    except VlaClError:  # it will say so itself
        return False
