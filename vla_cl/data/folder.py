"""Folders that are either whole or absent."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vla_cl.errors import VlaClError


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; put it in place of `folder` on success, remove it on any failure.

    Raises:
        VlaClError: The disk is full or the place cannot be written; `folder` keeps its previous content.
    """
    folder = Path(folder).absolute()
    name = f".{folder.name}.{uuid.uuid4().hex}"
    temporary, previous = folder.with_name(f"{name}.partial"), folder.with_name(f"{name}.previous")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in sorted(each for each in temporary.rglob("*") if each.is_file()):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        if folder.exists():
            os.rename(folder, previous)
        os.rename(temporary, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise VlaClError(f"no space left on the disk of {folder.parent}; free some and run it again") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EPERM):
            raise VlaClError(f"cannot write {folder}: {error.strerror}; choose another folder") from error
        raise
    finally:
        if previous.exists() and not folder.exists():
            os.rename(previous, folder)
        shutil.rmtree(previous, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)
