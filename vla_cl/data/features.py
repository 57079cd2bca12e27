"""What a frozen backbone makes of every step of a demonstration file: computed once, kept beside the file.

Beside `task.hdf5` lies `task.hdf5.features/<key>/`, one raw array a tensor and `features.json`. The key is a hash of
everything that the values depend on, so another backbone, camera or instruction has a folder of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_cl.data.batch import ObservationBatch
from vla_cl.data.columns import FileColumn
from vla_cl.data.folder import atomic_folder
from vla_cl.data.lock import exclusively
from vla_cl.data.schema import canonical_json
from vla_cl.errors import ConfigurationError, DataFileError, VlaClError
from vla_cl.progress import progress_bar

if TYPE_CHECKING:
    from torch import Tensor

    from vla_cl.data.windows import WindowDataset

FORMAT = "vla_cl.features"
FORMAT_VERSION = 1
OPTION = "or compute features in every step: training.cache_features=false"
_META = "features.json"
_KEY_DIGITS = 16
_STORED = {
    "bfloat16": "int16",  # its bits: numpy has no such number
    **{name: name for name in ("float16", "float32", "float64", "bool", "uint8", "int8", "int16", "int32", "int64")},
}
"""How numpy holds each type of tensor."""

Perceive = Callable[[ObservationBatch], Mapping[str, "Tensor"]]
"""B observations to tensors (B, ...) by name, whose other sizes are the same for every batch."""

logger = logging.getLogger(__name__)


class Layout(NamedTuple):
    """One tensor of a cache: its name, its type as torch calls it ("float32"), the type of the numbers on disk, to
    which it is rounded, and the shape of a row.
    """

    name: str
    dtype: str
    stored: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """What a row weighs on disk."""
        return int(np.dtype(_STORED[self.stored]).itemsize * np.prod(self.shape, dtype=np.int64))


class FeatureCache:
    """Features of N steps on disk, read row by row: memory does not grow with them.

    Args:
        path: The demonstration file.
        key: Names the cache among those of the file.

    Attributes:
        rows: N.
        layout: What a row holds.

    Raises:
        DataFileError: It is not there, or damaged.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.key = key
        self.folder = features_folder(path) / key
        if not (self.folder / _META).is_file():
            raise DataFileError(
                f"the cached features of {path} are gone ({self.folder}); put them back, "
                "or run the experiment that made them again"
            )
        try:
            meta: dict[str, Any] = json.loads((self.folder / _META).read_text(encoding="utf-8"))
            if (meta["format"], meta["version"]) != (FORMAT, FORMAT_VERSION):
                raise ValueError(f"format {meta['format']!r} {meta['version']!r}")
            self.rows = int(meta["rows"])
            self.layout = tuple(_described(*each) for each in meta["tensors"])
            self._columns = [self._column(index, each) for index, each in enumerate(self.layout)]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataFileError(f"the cached features in {self.folder} are damaged ({error}); delete them") from error

    def _column(self, index: int, tensor: Layout) -> FileColumn:
        path = self.folder / f"{index}.bin"
        if path.stat().st_size != self.rows * tensor.row_bytes:
            raise ValueError(f"{path.name} has {path.stat().st_size} bytes, not {self.rows * tensor.row_bytes}")
        start = np.zeros(1, np.int64)
        return FileColumn(path, start, start, tensor.shape, np.dtype(_STORED[tensor.stored]))

    def read(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Rows (n,) in any order, repetitions allowed: tensors (n, ...) by name.

        Raises:
            DataFileError: A file was cut short meanwhile.
        """
        import torch

        try:
            values = [torch.from_numpy(column.read(rows)) for column in self._columns]
        except DataFileError as error:
            raise DataFileError(f"the cached features in {self.folder} are cut short; delete them") from error
        return {
            each.name: value.view(getattr(torch, each.stored)).to(getattr(torch, each.dtype))
            for each, value in zip(self.layout, values, strict=True)
        }

    @property
    def row_bytes(self) -> int:
        """What the features of one step weigh."""
        return sum(each.row_bytes for each in self.layout)


def _described(name: str, dtype: str, stored: str, shape: list[int]) -> Layout:
    if dtype not in _STORED:
        raise ValueError(f"type {dtype!r}")
    return Layout(str(name), dtype, stored, tuple(shape))


def features_folder(path: Path) -> Path:
    """The folder of all caches of a demonstration file."""
    return path.with_name(f"{path.name}.features")


def cached_features(
    data: WindowDataset,
    perceive: Perceive,
    origin: Mapping[str, Any],
    *,
    rounded: bool = False,
    batch_size: int = 32,
) -> FeatureCache:
    """The features of every step of a dataset: those on disk, or computed now. Processes that ask at once compute once.

    A process that is killed while it computes leaves nothing that is ever read.

    Args:
        data: Whose steps; with all the cameras that `perceive` looks at.
        perceive: Computes them.
        origin: Everything else that the values depend on, as JSON: the backbone's fingerprint, the precision.
        rounded: Whether float32 numbers are kept as bfloat16, in half the space; they come back as float32.
        batch_size: Steps that are computed at a time.

    Raises:
        ConfigurationError: `perceive` returns something that cannot be kept.
        VlaClError: The disk is too small, or cannot be written.
    """
    request = {"version": FORMAT_VERSION, "origin": dict(origin), "rounded": rounded, **data.content()}
    key = hashlib.sha256(canonical_json(request).encode()).hexdigest()[:_KEY_DIGITS]
    cache = _opened(data, key)
    if cache is not None:
        return cache
    home = features_folder(data.path)
    with exclusively(home):
        for leftover in home.glob(".*.partial"):  # nobody else is at work here
            shutil.rmtree(leftover, ignore_errors=True)
        cache = _opened(data, key)
        if cache is None:
            _compute(data, perceive, home / key, request, rounded, batch_size)
            cache = FeatureCache(data.path, key)
    return cache


def _opened(data: WindowDataset, key: str) -> FeatureCache | None:
    """The cache, if it is there and whole."""
    if not (features_folder(data.path) / key).exists():
        return None
    try:
        cache = FeatureCache(data.path, key)
        if cache.rows != len(data):
            raise DataFileError(f"the cached features in {cache.folder} are of {cache.rows} steps, not {len(data)}")
    except DataFileError as error:
        logger.warning("%s; computing them again", error)
        return None
    return cache


def _compute(
    data: WindowDataset, perceive: Perceive, folder: Path, request: Mapping[str, Any], rounded: bool, batch_size: int
) -> None:
    layout: tuple[Layout, ...] | None = None
    try:
        with atomic_folder(folder) as temporary, ExitStack() as files:
            with progress_bar(f"computing features of {data.task}", len(data)) as advance:
                for start in range(0, len(data), batch_size):
                    rows = np.arange(start, min(start + batch_size, len(data)))
                    tensors = {name: each.detach().cpu() for name, each in perceive(data.observations(rows)).items()}
                    found = _layout(tensors, len(rows), rounded)
                    if layout is None:
                        layout = found
                        _check_space(folder, layout, len(data))
                        outputs = [
                            files.enter_context(open(temporary / f"{index}.bin", "wb")) for index in range(len(layout))
                        ]
                    if found != layout:
                        raise ConfigurationError(
                            f"features cannot be cached: their shapes change from batch to batch, "
                            f"{_shapes(layout)} and then {_shapes(found)}; {OPTION}"
                        )
                    for output, each in zip(outputs, layout, strict=True):
                        output.write(_bytes(tensors[each.name], each.stored))
                    advance(int(rows[-1]) + 1)
            meta = {
                "format": FORMAT,
                "version": FORMAT_VERSION,
                "rows": len(data),
                "tensors": [list(each) for each in layout or ()],
                "request": request,
            }
            (temporary / _META).write_text(json.dumps(meta, indent=1), encoding="utf-8")
            files.close()
    except (ConfigurationError, DataFileError):
        raise
    except VlaClError as error:
        raise VlaClError(f"{error}, {OPTION}") from error
    weight = sum(each.row_bytes for each in layout or ()) * len(data)
    logger.info("features of %s: %d steps, %.1f MB in %s", data.task, len(data), weight / 1e6, folder)


def _layout(tensors: Mapping[str, Tensor], rows: int, rounded: bool) -> tuple[Layout, ...]:
    layout = []
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _STORED or tensor.dim() < 1 or len(tensor) != rows:
            raise ConfigurationError(
                f"feature {name!r} cannot be cached: it is {dtype} of shape {tuple(tensor.shape)} for {rows} steps"
            )
        stored = "bfloat16" if rounded and dtype == "float32" else dtype
        layout.append(Layout(name, dtype, stored, tuple(tensor.shape[1:])))
    if not layout:
        raise ConfigurationError("the backbone names features, but computes none")
    return tuple(layout)


def _shapes(layout: tuple[Layout, ...]) -> str:
    return ", ".join(f"{each.name} {each.shape}" for each in layout)


def _bytes(tensor: Tensor, stored: str) -> memoryview:
    import torch

    rounded = tensor.contiguous().to(getattr(torch, stored))
    bits = rounded.view(torch.int16) if stored == "bfloat16" else rounded
    values: memoryview = np.ascontiguousarray(bits.numpy()).reshape(-1).view(np.uint8).data
    return values


def _check_space(folder: Path, layout: tuple[Layout, ...], rows: int) -> None:
    """Say at once what would else be found out when the disk is full."""
    wanted, free = rows * sum(each.row_bytes for each in layout), shutil.disk_usage(folder.parent).free
    if wanted > free:
        raise VlaClError(
            f"the features of {rows} steps need {wanted / 1e9:.1f} GB, and the disk of {folder.parent} has "
            f"{free / 1e9:.1f} GB left; free some"
        )
