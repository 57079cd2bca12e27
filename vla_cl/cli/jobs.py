"""Several runs of a sweep at the same time, each in a process of its own."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

from vla_cl.cli.interrupts import interrupts_kept
from vla_cl.errors import SimulationError

if TYPE_CHECKING:
    from vla_cl.config import ExperimentConfig


def run_all(configs: Sequence[ExperimentConfig], jobs: int) -> list[Path]:
    """Run experiments, `jobs` at a time, and return their folders in order.

    One at a time runs in this process. Numbers do not depend on `jobs`: a run's threads are part of its configuration,
    and runs share nothing but demonstrations, which are collected once.

    Raises:
        VlaClError: What the first failing run raised; the others finish, and all go on when started again.
        SimulationError: A run's process was killed.
    """
    if min(jobs, len(configs)) <= 1:
        from vla_cl.experiment import run_experiment

        return [run_experiment(config) for config in configs]
    level = logging.getLogger("vla_cl").level
    workers = min(jobs, len(configs))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_join_parent) as executor:
        futures = [executor.submit(_run_one, config, level) for config in configs]
        try:
            return [_result(future) for future in futures]
        except KeyboardInterrupt:
            executor.shutdown(wait=False, cancel_futures=True)
            for child in active_children():  # Ctrl-C in a terminal reached them already, a signal to us alone did not
                if child.pid:
                    os.kill(child.pid, signal.SIGINT)
            raise


def _join_parent() -> None:
    """Interrupts are the parent's to pass on; and when it is killed, a run must not go on with nobody to tell."""
    _ignore_interrupts()
    parent = parent_process()
    assert parent is not None, "runs side by side have a parent"

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _ignore_interrupts() -> None:
    """Between runs a worker has nothing to interrupt; the parent tells it when to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _result(future: Future[Path | None]) -> Path:
    try:
        folder = future.result()
    except BrokenProcessPool:
        raise SimulationError("the process of a run was killed; run the same command again to go on") from None
    if folder is None:
        raise KeyboardInterrupt
    return folder


def _run_one(config: ExperimentConfig, level: int) -> Path | None:
    """One run in a process of its own: log lines carry its name, bars stay away. None when it was interrupted."""
    from vla_cl import progress
    from vla_cl.experiment import run_experiment
    from vla_cl.registry import load_plugins

    signal.signal(signal.SIGINT, signal.default_int_handler)
    name = config.folder.name.removesuffix(f"-{config.folder.name.rsplit('-', 1)[-1]}")
    logging.basicConfig(level=logging.WARNING, format=f"{name}: %(message)s")
    logging.getLogger("vla_cl").setLevel(level)
    progress.bars = False
    load_plugins(config.plugins)
    try:
        with interrupts_kept():
            return run_experiment(config)
    except KeyboardInterrupt:
        return None
    finally:
        _ignore_interrupts()
