"""What a Ray worker does: one run after another, whose every word goes to the run's own log."""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vla_cl.config import ExperimentConfig
from vla_cl.errors import FolderInUseError, ServerError, SimulationError, VlaClError
from vla_cl.grid.runs import Outcome

_WATCH_SECONDS = 0.5


def execute(config: ExperimentConfig, log: Path, folder: Path, level: int) -> tuple[Outcome, str]:
    """Do a run from wherever its folder stands.

    Args:
        config: The run.
        log: File to which the process's output is appended.
        folder: Where relative paths start: the same on every machine of a cluster.
        level: Of our log lines.

    Returns:
        How it ended, and why, in one line.
    """
    _end_with_parent()
    os.chdir(folder)
    with _output_to(log):
        return _run(config, level)


def _run(config: ExperimentConfig, level: int) -> tuple[Outcome, str]:
    print(f"started on {socket.gethostname()}, process {os.getpid()}", file=sys.stderr)  # noqa: T201  it is the log
    from vla_cl import progress
    from vla_cl.experiment import run_experiment
    from vla_cl.registry import load_plugins

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("vla_cl").setLevel(level)
    progress.bars = False
    try:
        load_plugins(config.plugins)
        run_experiment(config)
    except FolderInUseError as error:
        return Outcome.BUSY, str(error)
    except (SimulationError, ServerError) as error:
        return Outcome.BROKEN, str(error)
    except VlaClError as error:
        return Outcome.REFUSED, str(error)
    except Exception as error:  # noqa: BLE001  whatever it is, the other runs go on
        traceback.print_exc()
        return Outcome.BROKEN, f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Outcome.DONE, ""


@functools.cache
def _end_with_parent() -> None:
    """When what started this process is killed, the run must not go on with nobody to tell."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Let everything that this process and its children write, crashes of C libraries included, go to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    usual = sys.stdout, sys.stderr
    for stream in usual:
        stream.flush()
    before = os.dup(1), os.dup(2)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115  Ray's own streams add marks to lines
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = usual
        for descriptor, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, descriptor)
            os.close(kept)
