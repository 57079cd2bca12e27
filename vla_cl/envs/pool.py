"""Many environments at once: one process a core, each with its share of the slots."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.base import Observation
from vla_cl.envs.process import WorkerGoneError, WorkerProcess
from vla_cl.envs.rendering import settled
from vla_cl.envs.worker import ChunkResult, EpisodeStart
from vla_cl.errors import ConfigurationError, SimulationError, VlaClError

__all__ = ["ChunkResult", "EnvironmentPool", "EpisodeStart", "WorkerDiedError"]

_WORKER = "vla_cl.envs.worker"


class PoolWorker(Protocol):
    """A process that simulates, wherever it is; see `vla_cl.envs.process.WorkerProcess`."""

    @property
    def process_id(self) -> int: ...

    def wait_until_ready(self) -> None: ...

    def send(self, method: str, argument: Any) -> None: ...

    def receive(self) -> tuple[VlaClError | None, Any]: ...

    def end(self) -> None: ...


class WorkerDiedError(SimulationError):
    """A simulation process was killed. The pool goes on: start the lost episodes again.

    Attributes:
        slots: Slots whose episodes were running there and are lost.
        results: What the other processes returned in the same call, by slot.
    """

    def __init__(self, slots: frozenset[int], results: Mapping[int, Any], reason: str) -> None:
        names = ", ".join(map(str, sorted(slots))) or "none"
        super().__init__(
            f"a simulation process died ({reason}); start the episodes of its slots again ({names}), "
            "with fewer processes if memory ran out"
        )
        self.slots = slots
        self.results = dict(results)


class EnvironmentPool:
    """Runs episodes in parallel. A slot is a place for one episode; slot s lives in process s % processes.

    Episodes of the same specification take turns in one environment of their process. A result depends on its
    episode alone, never on the number of processes nor on what ran before. Processes start when they are first
    needed, are fresh interpreters (nothing of the parent's memory, GL or CUDA state), and end with the pool or with
    the parent, however that ends. Ctrl-C is left to the parent. Not for use from several threads at once.

    Args:
        processes: How many; None is one for each core that this process may use.
        start_worker: Starts one of them; None is on this machine.
    """

    def __init__(self, processes: int | None = None, start_worker: Callable[[], PoolWorker] | None = None) -> None:
        if processes is None:
            processes = len(os.sched_getaffinity(0))
        if processes < 1:
            raise ConfigurationError(f"processes must be at least 1, got {processes}")
        self.processes = processes
        self._start_worker = start_worker or partial(WorkerProcess, _WORKER)
        self._processes: dict[int, PoolWorker] = {}
        self._running: set[int] = set()
        self._finalizer = weakref.finalize(self, _end_all, self._processes)

    def start(self, episodes: Mapping[int, EpisodeStart]) -> dict[int, Observation]:
        """Start an episode in each of the given slots, in place of any that was there.

        Raises:
            WorkerDiedError: A process was killed meanwhile.
            SimulationError: A process cannot be started, or an environment failed.
            VlaClError: Whatever an environment raised; no slot of that process is running any more.
        """
        self._running -= episodes.keys()
        return self._exchange("start", {slot: _settled(episode) for slot, episode in episodes.items()})

    def advance(self, chunks: Mapping[int, NDArray[np.float32]]) -> dict[int, ChunkResult]:
        """Advance each of the given slots by a chunk of actions (k, A), stopping at success or horizon.

        Raises:
            ConfigurationError: A slot has no running episode.
            WorkerDiedError, SimulationError, VlaClError: As for `start`.
        """
        for slot in chunks:
            if slot not in self._running:
                raise ConfigurationError(f"slot {slot} has no running episode; start one first")
        return self._exchange("advance", chunks)

    def close(self) -> None:
        """End all processes. The pool may be used again; it then starts new ones."""
        self._running.clear()
        _end_all(self._processes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def process_ids(self) -> dict[int, int]:
        """The operating system's process id of each started process, by index."""
        return {index: process.process_id for index, process in self._processes.items()}

    def _exchange(self, method: str, arguments: Mapping[int, Any]) -> dict[int, Any]:
        """Send every process its slots' arguments, then collect what all of them return."""
        shares: dict[int, dict[int, Any]] = {}
        for slot, argument in arguments.items():
            shares.setdefault(slot % self.processes, {})[slot] = argument
        results: dict[int, Any] = {}
        errors: list[VlaClError] = []
        lost: set[int] = set()
        reasons: list[str] = []
        try:
            self._start_processes(shares)
            for index, share in shares.items():
                self._processes[index].send(method, share)
            for index, share in shares.items():
                try:
                    error, values = self._processes[index].receive()
                except WorkerGoneError as gone:
                    self._processes.pop(index).end()
                    lost |= {slot for slot in self._running if slot % self.processes == index} | share.keys()
                    reasons.append(str(gone))
                    continue
                if error is not None:
                    errors.append(error)
                    self._running -= share.keys()
                else:
                    results.update(values)
        except BaseException:  # Ctrl-C, say: a late answer must not be taken for that to the next request
            self.close()
            raise
        self._running -= lost
        if method == "advance":
            results = {slot: ChunkResult(*values) for slot, values in results.items()}
            self._running -= {slot for slot, result in results.items() if result.observation is None}
        else:
            self._running |= results.keys()
        if errors:
            raise errors[0]
        if lost:
            raise WorkerDiedError(frozenset(lost), results, "; ".join(reasons))
        return results

    def _start_processes(self, indices: Iterable[int]) -> None:
        """Start those that do not run yet, all at once."""
        new = {index: self._start_worker() for index in indices if index not in self._processes}
        self._processes.update(new)
        for process in new.values():
            process.wait_until_ready()


def _settled(episode: EpisodeStart) -> EpisodeStart:
    """Find out here how images are drawn, if any are: the processes need not, nor warn of it one by one."""
    spec = episode.spec
    if spec.observation.cameras == () and not episode.record_every:
        return episode
    return replace(episode, spec=replace(spec, rendering=settled(spec.rendering)))


def _end_all(processes: dict[int, PoolWorker]) -> None:
    while processes:
        _, process = processes.popitem()
        process.end()
