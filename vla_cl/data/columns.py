"""Random access to one quantity of a demonstration file, one row a step, without holding the file in memory.

Images are read with `pread` straight from where HDF5 keeps them. Unlike a memory map this keeps the process small
whatever the file's size, and a file cut short while it is read is an error, not a crash.
"""

from __future__ import annotations

import abc
import os
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from vla_cl.errors import DataFileError

MEMORY_LIMIT = 64 * 2**20
"""Bytes up to which a quantity of numbers (not images) is kept in memory."""


class Run(NamedTuple):
    """Rows of one dataset that follow each other.

    Args:
        dataset: Where they are.
        first: The first of them.
        length: How many there are.
    """

    dataset: h5py.Dataset
    first: int
    length: int


class Column(abc.ABC):
    """One quantity: N rows, the steps of all episodes end to end.

    Attributes:
        row_shape: Shape of a row.
        dtype: Type of its numbers.
    """

    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @abc.abstractmethod
    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Rows (n,) in any order, repetitions allowed: (n, *row_shape), the caller's own to change."""

    @property
    def row_bytes(self) -> int:
        """What a row weighs."""
        return self.dtype.itemsize * int(np.prod(self.row_shape, dtype=np.int64))


class MemoryColumn(Column):
    """Rows that are held in memory."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values
        self.row_shape, self.dtype = values.shape[1:], values.dtype

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self.values[rows]


class WidenedColumn(Column):
    """Vectors filled up with zeros at their end.

    Args:
        column: Rows of shape (D,).
        width: Their size from now on, at least D.
    """

    def __init__(self, column: Column, width: int) -> None:
        self._column = column
        self.row_shape, self.dtype = (width,), column.dtype

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        narrow = self._column.read(rows)
        return np.pad(narrow, ((0, 0), (0, self.row_shape[0] - narrow.shape[1])))


class JoinedColumn(Column):
    """Vectors made of several ones, side by side, as float32.

    Args:
        columns: The parts (D_k,), in order.
        limit: Size to which every number is cut; None leaves them.
    """

    def __init__(self, columns: Sequence[Column], limit: float | None = None) -> None:
        self._columns, self._limit = tuple(columns), limit
        width = sum(column.row_shape[0] for column in columns)
        self.row_shape, self.dtype = (width,), np.dtype(np.float32)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        joined = np.concatenate([column.read(rows).astype(np.float32) for column in self._columns], axis=1)
        return joined if self._limit is None else joined.clip(-self._limit, self._limit)


class FlippedColumn(Column):
    """Images whose rows are stored from the bottom up, as OpenGL draws them, turned upright.

    Args:
        column: Images (H, W, C).
    """

    def __init__(self, column: Column) -> None:
        self._column = column
        self.row_shape, self.dtype = column.row_shape, column.dtype

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return np.ascontiguousarray(self._column.read(rows)[:, ::-1])


class FileColumn(Column):
    """Rows that lie contiguously in the file, run by run.

    Args:
        path: The file.
        starts: (R,) first row of each run.
        offsets: (R,) position of that row in the file, in bytes.
        row_shape: Shape of a row.
        dtype: Type of its numbers, in this machine's byte order.
    """

    def __init__(
        self,
        path: Path,
        starts: NDArray[np.int64],
        offsets: NDArray[np.int64],
        row_shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self.path, self.starts, self.offsets = path, starts, offsets
        self.row_shape, self.dtype = row_shape, dtype
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        size = self.row_bytes
        runs = np.searchsorted(self.starts, rows, side="right") - 1
        positions = (self.offsets[runs] + (rows - self.starts[runs]) * size).tolist()
        values = np.empty((len(rows), *self.row_shape), self.dtype)
        memory = values.reshape(-1).view(np.uint8).data
        for index, position in enumerate(positions):
            if os.preadv(self._descriptor, [memory[index * size : (index + 1) * size]], position) != size:
                raise DataFileError(f"{self.path} is truncated; delete it and collect again")
        return values


class CompressedColumn(Column):
    """Rows that are compressed one by one with deflate, as our files hold images. Unpacked here and not by HDF5.

    HDF5's own way to one row costs several times what unpacking it does.

    Args:
        path: The file.
        positions, sizes: (N,) where each row's compressed bytes lie in the file; the size of a row that was kept as it
            is is negative.
        row_shape: Shape of a row.
        dtype: Type of its numbers, in this machine's byte order.
    """

    def __init__(
        self,
        path: Path,
        positions: NDArray[np.int64],
        sizes: NDArray[np.int64],
        row_shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self.path, self.positions, self.sizes = path, positions, sizes
        self.row_shape, self.dtype = row_shape, dtype
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        values = np.empty((len(rows), *self.row_shape), self.dtype)
        places = zip(self.positions[rows].tolist(), self.sizes[rows].tolist(), strict=True)
        for index, (position, size) in enumerate(places):
            try:
                stored = os.pread(self._descriptor, abs(size), position)
                plain = stored if size < 0 else zlib.decompress(stored, bufsize=self.row_bytes)
                values[index] = np.frombuffer(plain, self.dtype).reshape(self.row_shape)
            except (zlib.error, ValueError) as error:
                raise DataFileError(f"{self.path} is damaged or truncated; delete it and collect again") from error
        return values


class Hdf5Column(Column):
    """Rows that only HDF5 knows how to find: in chunks of several, compressed otherwise, or in another byte order.

    Args:
        path: The file.
        names: (R,) the dataset of each run.
        starts: (R,) the row that each run begins with.
        firsts: (R,) where in its dataset that row is.
        row_shape: Shape of a row.
        dtype: Type of its numbers, in any byte order.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        starts: NDArray[np.int64],
        firsts: NDArray[np.int64],
        row_shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self.path, self.names, self.starts, self.firsts = path, tuple(names), starts, firsts
        self.row_shape, self.dtype = row_shape, dtype.newbyteorder("=")
        self._file: h5py.File | None = None
        self._process = 0

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        if self._file is None or self._process != os.getpid():  # HDF5 handles do not survive a fork
            self._file, self._process = h5py.File(self.path, "r", locking=False), os.getpid()
        values = np.empty((len(rows), *self.row_shape), self.dtype)
        runs = np.searchsorted(self.starts, rows, side="right") - 1
        places = (self.firsts[runs] + rows - self.starts[runs]).tolist()
        for index in np.argsort(rows, kind="stable").tolist():  # neighbours share a chunk, which HDF5 unpacks once
            values[index] = self._file[self.names[runs[index]]][places[index]]
        return values


def open_column(path: Path, runs: Sequence[Run]) -> Column:
    """The rows of some runs, end to end, by the cheapest way that reads them; runs are not empty."""
    first = runs[0].dataset
    counts = np.array([run.length for run in runs], np.int64)
    starts = np.cumsum(counts) - counts
    shape, dtype = first.shape[1:], first.dtype
    row_bytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if first.ndim <= 2 and int(counts.sum()) * row_bytes <= MEMORY_LIMIT:
        rows = [run.dataset[run.first : run.first + run.length] for run in runs]
        return MemoryColumn(np.concatenate(rows).astype(dtype.newbyteorder("="), copy=False))
    offsets = [run.dataset.id.get_offset() for run in runs]
    native = all(run.dataset.dtype == dtype and dtype.isnative for run in runs) and first.file.userblock_size == 0
    if native and all(offset is not None for offset in offsets):
        places = [offset + run.first * row_bytes for offset, run in zip(offsets, runs, strict=True)]
        return FileColumn(path, starts, np.array(places, np.int64), shape, dtype)
    if native and all(_is_compressed_by_row(run.dataset) for run in runs):
        return compressed_column(path, runs)
    names, firsts = [run.dataset.name for run in runs], np.array([run.first for run in runs], np.int64)
    return Hdf5Column(path, names, starts, firsts, shape, dtype)


def compressed_column(path: Path, runs: Sequence[Run]) -> CompressedColumn:
    """The rows of runs, end to end, of datasets that are compressed row by row."""
    first = runs[0].dataset
    places = np.concatenate([_chunk_places(run.dataset)[run.first : run.first + run.length] for run in runs])
    return CompressedColumn(path, places[:, 0], places[:, 1], first.shape[1:], first.dtype)


def _is_compressed_by_row(dataset: h5py.Dataset) -> bool:
    """Whether every row is a chunk of its own that went through deflate and nothing else."""
    if dataset.is_virtual or dataset.chunks != (1, *dataset.shape[1:]):
        return False
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    return filters == [h5py.h5z.FILTER_DEFLATE] and dataset.id.get_num_chunks() == len(dataset)


def _chunk_places(dataset: h5py.Dataset) -> NDArray[np.int64]:
    """Position and size in bytes (N, 2) of each row's chunk in the file."""
    places = np.zeros((len(dataset), 2), np.int64)

    def note(chunk: Any) -> None:
        places[chunk.chunk_offset[0]] = chunk.byte_offset, -chunk.size if chunk.filter_mask else chunk.size

    dataset.id.chunk_iter(note)
    return places
