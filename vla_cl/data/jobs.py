"""Jobs for worker processes: any number of them, each a function of its number alone."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing import connection
from types import TracebackType
from typing import Any, Self

from vla_cl.envs.process import WorkerGoneError, WorkerProcess
from vla_cl.errors import ConfigurationError, SimulationError

logger = logging.getLogger(__name__)

MAX_DEATHS = 3
"""Processes that one job may cost before it is held responsible."""


class JobProcesses:
    """Worker processes that run numbered jobs; a job whose process is killed runs again in another.

    Args:
        module: Dotted name of the workers' module, see `WorkerProcess`; it serves "run" with (recipe, job).
        recipe: What all jobs have in common, sent along with each.
        processes: How many; None is one for each core that this process may use.
        jobs: How many jobs there may be at once; more processes are not started.
    """

    def __init__(self, module: str, recipe: Any, processes: int | None, jobs: int) -> None:
        if processes is not None and processes < 1:
            raise ConfigurationError(f"processes must be at least 1, got {processes}")
        self.processes = min(jobs, len(os.sched_getaffinity(0)) if processes is None else processes)
        self._module, self._recipe = module, recipe
        self._idle: list[WorkerProcess] = []
        self._busy: dict[WorkerProcess, int] = {}
        self._lost: list[int] = []
        self._deaths: Counter[int] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in (*self._idle, *self._busy):
            worker.end(at_once=True)
        self._idle.clear()
        self._busy.clear()

    def run(self, next_job: Callable[[], int | None]) -> Iterator[tuple[int, Any]]:
        """Run jobs until none is left; yield (job, result) in the order in which they end.

        Args:
            next_job: Called when a worker is free; the number of a job, or None when there is none for now. It is asked
                again after every result. None while nothing runs ends the iteration.

        Raises:
            SimulationError: Workers cannot start, or die again and again.
            VlaClError: Whatever a job raised.
        """
        while True:
            while len(self._busy) < self.processes:
                job = self._lost.pop() if self._lost else next_job()
                if job is None:
                    break
                self._give(job)
            if not self._busy:
                return
            ready = connection.wait([worker.connection for worker in self._busy])
            for worker in [each for each in self._busy if each.connection in ready]:
                job = self._busy.pop(worker)
                try:
                    error, result = worker.receive()
                except WorkerGoneError as gone:
                    worker.end()
                    self._lose(job, str(gone))
                    continue
                self._idle.append(worker)
                if error is not None:
                    raise error
                yield job, result

    def _give(self, job: int) -> None:
        if not self._idle:
            missing = self.processes - len(self._busy)
            started = [WorkerProcess(self._module) for _ in range(missing)]
            self._idle += started
            for worker in started:
                worker.wait_until_ready()
        worker = self._idle.pop()
        self._busy[worker] = job
        worker.send("run", (self._recipe, job))

    def _lose(self, job: int, reason: str) -> None:
        logger.warning("a worker process died (%s); its job %d runs again", reason, job)
        self._lost.append(job)
        self._deaths[job] += 1
        if self._deaths[job] >= MAX_DEATHS:
            raise SimulationError(
                f"{MAX_DEATHS} worker processes died at the same job ({reason}); use fewer processes if memory ran out"
            )
