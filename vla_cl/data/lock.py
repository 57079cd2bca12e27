"""A lock for whoever makes a file, so that two runs that are started at once make it once."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vla_cl.errors import VlaClError

logger = logging.getLogger(__name__)


@contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """Wait until nobody else makes `path`, and hold others back meanwhile.

    The lock is the kernel's: it goes with the process, however that ends. Its file, beside `path`, goes with the block.

    Raises:
        VlaClError: The folder cannot be written.
    """
    lock = path.with_name(f".{path.name}.lock")
    descriptor = _acquire(lock, path)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # while it is held: whoever waits for it sees that it is gone, and tries again
        os.close(descriptor)


def _acquire(lock: Path, path: Path) -> int:
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise VlaClError(f"cannot write into {lock.parent}: {error.strerror}; choose another folder") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("waiting for another process that collects %s", path)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_still(lock, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_still(lock: Path, descriptor: int) -> bool:
    try:
        present = os.stat(lock)
    except FileNotFoundError:
        return False
    return os.path.samestat(present, os.fstat(descriptor))
