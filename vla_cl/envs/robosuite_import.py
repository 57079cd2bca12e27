"""robosuite, imported late, headless and quiet."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from vla_cl.envs.mujoco_import import import_mujoco

_LOGGER = "robosuite_logs"
_WINDOWS = "cv2"


@functools.cache
def import_robosuite() -> ModuleType:
    """The `robosuite` module, on a machine with a GL library or without any.

    What it complains about while it is imported (no private macros, optional packages that are not there) is dropped;
    what it warns of later goes to `logging` like everything else, its chatter below warnings nowhere. `os.environ`,
    where robosuite overwrites `MUJOCO_GL`, stays what it was. OpenCV, which robosuite needs for windows only, is done
    without where it cannot be loaded: its usual build asks for libGL.so.1.

    Raises:
        RenderingError: `MUJOCO_GL` names a GL library that is not there.
    """
    import_mujoco()
    with _kept_environment(), _silence(), _without_windows():
        return importlib.import_module("robosuite")


@contextmanager
def _kept_environment() -> Iterator[None]:
    """robosuite sets MUJOCO_GL, OpenCV where Qt finds its plug-ins."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _silence() -> Iterator[None]:
    """robosuite installs a handler that writes to stderr, and logs through it as soon as it is imported."""
    logger = logging.getLogger(_LOGGER)
    logger.addFilter(_drop)
    try:
        yield
    finally:
        logger.removeFilter(_drop)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        logger.setLevel(logging.WARNING)


def _drop(record: logging.LogRecord) -> bool:
    return False


@contextmanager
def _without_windows() -> Iterator[None]:
    try:
        importlib.import_module(_WINDOWS)
    except ImportError:
        sys.modules[_WINDOWS] = ModuleType(_WINDOWS)
        try:
            yield
        finally:
            del sys.modules[_WINDOWS]
    else:
        yield
