"""Reading HDF5 that somebody else may have written: nothing outside of the file, and proof of what is inside.

HDF5 can point out of a file in four ways: external and soft links, external raw storage, and virtual datasets. A
demonstration file needs none of them but virtual datasets over itself, so everything else is refused before any data
is read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vla_cl.data.schema import canonical_json
from vla_cl.errors import DataFileError

CHECKSUM = "checksum"
AGAIN = "delete it and collect again, or fetch it again from where it came"
_SLAB_BYTES = 16 * 2**20


def open_safely(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, once it is known to reach nowhere else. The caller closes it.

    Raises:
        DataFileError: There is no such file, it is not HDF5, it is truncated, or it points out of itself.
    """
    path = Path(path)
    if not path.is_file():
        raise DataFileError(f"{path} does not exist; collect demonstrations first (vla-cl collect)")
    if not h5py.is_hdf5(path):
        raise DataFileError(f"{path} is not an HDF5 file (no HDF5 signature); {AGAIN}")
    with damage_reported(path):
        file = h5py.File(path, "r", locking=False)
        try:
            _refuse_foreign_storage(file, path)
        except BaseException:
            file.close()
            raise
    return file


@contextmanager
def damage_reported(path: Path) -> Iterator[None]:
    """Turn what h5py raises on a damaged file into one clear line; wrap nothing but reads in it."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = "truncated" if "truncated" in str(error) else f"damaged ({str(error).splitlines()[0]})"
        raise DataFileError(f"{path} is {reason}; {AGAIN}") from error


def _refuse_foreign_storage(file: h5py.File, path: Path) -> None:
    links: list[tuple[str, int]] = []
    file.id.links.visit(lambda name, info: links.append((name.decode(errors="replace"), info.type)), info=True)
    for name, kind in links:
        if kind != h5py.h5l.TYPE_HARD:
            what = "an external link" if kind == h5py.h5l.TYPE_EXTERNAL else "a soft or user-defined link"
            raise DataFileError(f"{path}: {name} is {what}, which is never followed; store the data itself in the file")
    for name, _ in links:
        thing = file[name]
        if not isinstance(thing, h5py.Dataset):
            continue
        if thing.external is not None:
            raise DataFileError(f"{path}: {name} keeps its data in another file, which is never read; store it inside")
        if thing.is_virtual and any(source.file_name != "." for source in thing.virtual_sources()):
            raise DataFileError(f"{path}: {name} is a view of another file, which is never read; store the data itself")


def content_checksum(file: h5py.File, values: Callable[[str], bool] = lambda name: True) -> str:
    """SHA-256 of everything that a reader can see under `data` and `mask`: names, attributes, types, shapes, values.

    Two files with one checksum hold the same demonstrations, however their bytes are arranged on the disk.

    Args:
        file: An open file.
        values: Whether the values of a dataset count, by its name; everything else counts of all.
    """
    digest = hashlib.sha256()
    names: list[str] = []
    file.visit(names.append)
    for name in sorted(names):
        thing = file[name]
        attributes = {key: _plain(value) for key, value in thing.attrs.items() if key != CHECKSUM}
        head: dict[str, Any] = {"name": name, "attributes": attributes}
        if isinstance(thing, h5py.Dataset):
            head |= {"dtype": thing.dtype.str, "shape": list(thing.shape)}
        digest.update(canonical_json(head).encode())
        if isinstance(thing, h5py.Dataset) and values(name):
            for slab in _slabs(thing):
                digest.update(slab)
    return digest.hexdigest()


def _slabs(dataset: h5py.Dataset) -> Iterator[bytes | memoryview]:
    """The values of a dataset as bytes, some megabytes at a time."""
    if dataset.dtype.hasobject or not dataset.shape:
        yield repr(dataset[()]).encode()
        return
    rows = max(1, _SLAB_BYTES // max(1, dataset.nbytes // max(1, dataset.shape[0])))
    for start in range(0, dataset.shape[0], rows):
        yield np.ascontiguousarray(dataset[start : start + rows]).reshape(-1).view(np.uint8).data


def _plain(value: Any) -> Any:
    """An attribute as JSON; what JSON has no words for is described."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return repr(value)
