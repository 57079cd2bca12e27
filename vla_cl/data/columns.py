"""Random access to one quantity of a demonstration file, one row a step, without holding the file in memory.

Images are read with `pread` straight from where HDF5 keeps them. Unlike a memory map this keeps the process small
whatever the file's size, and a file cut short while it is read is an error, not a crash.
"""

from __future__ import annotations

import abc
import os
import weakref
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vla_cl.data.demonstrations import DemonstrationFile
from vla_cl.errors import DataFileError

MEMORY_LIMIT = 64 * 2**20
"""Bytes up to which a quantity of numbers (not images) is kept in memory."""


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


class FileColumn(Column):
    """Rows that lie contiguously in the file, one run an episode.

    Args:
        path: The file.
        starts: (E,) first row of each episode.
        offsets: (E,) position of that row in the file, in bytes.
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
        episodes = np.searchsorted(self.starts, rows, side="right") - 1
        positions = (self.offsets[episodes] + (rows - self.starts[episodes]) * size).tolist()
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
    """Rows that only HDF5 knows how to find: chunked, compressed, or in another byte order."""

    def __init__(self, path: Path, starts: NDArray[np.int64], names: Sequence[str], dataset: h5py.Dataset) -> None:
        self.path, self.starts, self.names = path, starts, tuple(names)
        self.row_shape, self.dtype = dataset.shape[1:], dataset.dtype.newbyteorder("=")
        self._file: h5py.File | None = None
        self._process = 0

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        if self._file is None or self._process != os.getpid():  # HDF5 handles do not survive a fork
            self._file, self._process = h5py.File(self.path, "r", locking=False), os.getpid()
        values = np.empty((len(rows), *self.row_shape), self.dtype)
        for index, row in enumerate(rows.tolist()):
            episode = int(np.searchsorted(self.starts, row, side="right")) - 1
            values[index] = self._file[self.names[episode]][row - int(self.starts[episode])]
        return values


def open_column(file: DemonstrationFile, name: str, episodes: Iterable[int]) -> Column:
    """The quantity `name` ("actions", "obs/agent_pos") of some episodes, by the cheapest way that reads it."""
    datasets = [file.dataset(episode, name) for episode in episodes]
    first = datasets[0]
    lengths = np.array([len(dataset) for dataset in datasets], np.int64)
    starts = np.cumsum(lengths) - lengths
    if first.ndim <= 2 and sum(dataset.nbytes for dataset in datasets) <= MEMORY_LIMIT:
        return MemoryColumn(np.concatenate([dataset[()] for dataset in datasets]))
    offsets = [dataset.id.get_offset() for dataset in datasets]
    plain = all(offset is not None for offset in offsets) and first.dtype.isnative and first.file.userblock_size == 0
    if plain:
        return FileColumn(file.path, starts, np.array(offsets, np.int64), first.shape[1:], first.dtype)
    if first.dtype.isnative and first.file.userblock_size == 0 and all(map(_is_compressed_by_row, datasets)):
        return compressed_column(file.path, datasets)
    return Hdf5Column(file.path, starts, [dataset.name for dataset in datasets], first)


def compressed_column(path: Path, datasets: Sequence[h5py.Dataset]) -> CompressedColumn:
    """The rows of datasets, end to end, each of which is compressed row by row."""
    places = np.concatenate([_chunk_places(dataset) for dataset in datasets])
    return CompressedColumn(path, places[:, 0], places[:, 1], datasets[0].shape[1:], datasets[0].dtype)


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
