"""Writing demonstration files: one episode at a time into a temporary file, renamed when it is whole."""

from __future__ import annotations

import errno
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vla_cl.data.integrity import CHECKSUM, content_checksum
from vla_cl.data.schema import (
    HEADER_TEXTS,
    HEADER_TREES,
    IMAGE_SUFFIX,
    SCHEMA,
    SCHEMA_VERSION,
    VALID_EVERY,
    Episode,
    Header,
    canonical_json,
    demonstration_name,
)
from vla_cl.errors import DataFileError
from vla_cl.files import atomic_path

_COMPRESSION = 4
"""Of gzip, 1 to 9: a tenth smaller than 1, for a tenth of a millisecond an image; more saves little."""


def write_demonstrations(
    path: Path, header: Header, episodes: Iterable[Episode], splits: Mapping[str, Sequence[int]] | None = None
) -> str:
    """Write a demonstration file, keeping one episode in memory at a time.

    Args:
        path: Where it goes.
        header: What is said once about all demonstrations.
        episodes: The demonstrations, in order.
        splits: Demonstrations of each split, by name; None puts every tenth into "valid", the others into "train".

    Returns:
        The checksum of the file's content.

    Raises:
        DataFileError: There is no episode, or an episode's arrays do not fit each other.
        VlaClError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    with atomic_path(Path(path)) as temporary, disk_errors(), h5py.File(temporary, "w") as file:
        data = file.create_group("data")
        total, names = 0, []
        for index, episode in enumerate(episodes):
            name = demonstration_name(index)
            _write_episode(data.create_group(name), episode)
            names.append(name)
            total += len(episode)
        if not names:
            raise DataFileError(f"no episode to write into {path}; collect at least one")
        _write_header(data, header, total)
        write_splits(file, default_splits(len(names)) if splits is None else splits)
        file.flush()
        checksum = content_checksum(file)
        data.attrs[CHECKSUM] = checksum
    return checksum


def default_splits(count: int) -> dict[str, list[int]]:
    """Every tenth of `count` demonstrations is in "valid", the others in "train"."""
    valid = list(range(VALID_EVERY - 1, count, VALID_EVERY))
    return {"valid": valid, "train": [index for index in range(count) if (index + 1) % VALID_EVERY]}


def write_splits(file: h5py.File, splits: Mapping[str, Sequence[int]]) -> None:
    """Write `mask/<name>` for each split, in place of those that are there. The checksum is the caller's to renew."""
    if "mask" in file:
        del file["mask"]
    mask = file.create_group("mask")
    for name, indices in splits.items():
        mask[name] = np.array([demonstration_name(index) for index in sorted(indices)], dtype="S")


def _write_header(data: h5py.Group, header: Header, total: int) -> None:
    data.attrs["total"] = total
    data.attrs["env_args"] = header.env_args
    data.attrs["schema"] = SCHEMA
    data.attrs["schema_version"] = SCHEMA_VERSION
    for name in HEADER_TEXTS:
        data.attrs[name] = getattr(header, name)
    for name in HEADER_TREES:
        data.attrs[name] = canonical_json(getattr(header, name))
    # As it is, not sorted: the order in which a scene's things are declared is their order in the simulator's state.
    data.attrs["environment"] = json.dumps(header.environment, allow_nan=False)


def _write_episode(group: h5py.Group, episode: Episode) -> None:
    length = len(episode)
    vectors: dict[str, NDArray[Any]] = {
        "actions": np.asarray(episode.actions, np.float32),
        "executed_actions": np.asarray(episode.executed_actions, np.float32),
        "states": np.asarray(episode.states, np.float64),
        "rewards": np.asarray(episode.rewards, np.float32),
    }
    if length < 1 or any(len(values) != length for values in vectors.values()):
        raise DataFileError(f"{group.name}: actions, states and rewards must be equally long, and not empty")
    group.attrs["num_samples"] = length
    group.attrs["seed"] = episode.seed
    group.attrs["attempt"] = episode.attempt
    if episode.model_file:
        group.attrs["model_file"] = episode.model_file
    for name, values in vectors.items():
        if name == "states" and values.size:  # most of a state stands still, so that it all but vanishes
            write_compressed(group, name, values, rows_a_chunk=length)
        else:
            group.create_dataset(name, data=values)
    dones = np.zeros(length, np.uint8)
    dones[-1] = 1
    group.create_dataset("dones", data=dones)
    for key, values in episode.observations.items():
        if len(values) != length + 1:
            raise DataFileError(f"{group.name}/obs/{key} has {len(values)} rows, needs one more than {length} actions")
        write_observation(group, key, values)


def write_observation(group: h5py.Group, key: str, values: NDArray[Any]) -> None:
    """Write obs and next_obs of T + 1 rows; images are stored once, each compressed, and next_obs is a view of them."""
    length = len(values) - 1
    if not key.endswith(IMAGE_SUFFIX):
        group.create_dataset(f"obs/{key}", data=values[:-1])
        group.create_dataset(f"next_obs/{key}", data=values[1:])
        return
    now = write_compressed(group, f"obs/{key}", values[:-1], rows_a_chunk=1)
    last = group.create_dataset(f"last_obs/{key}", data=values[-1:])
    layout = h5py.VirtualLayout(now.shape, now.dtype)
    if length > 1:
        layout[: length - 1] = h5py.VirtualSource(".", now.name, now.shape)[1:]
    layout[length - 1 :] = h5py.VirtualSource(".", last.name, last.shape)
    group.require_group("next_obs").create_virtual_dataset(key, layout)


def write_compressed(group: h5py.Group, name: str, values: NDArray[Any], rows_a_chunk: int) -> h5py.Dataset:
    """Write a dataset in chunks of some rows, which divide them all, each compressed here and then handed to HDF5.

    HDF5's own compression works when its cache of chunks is flushed, and when the disk is full by then, the library
    crashes (1.14).
    """
    shuffle = values.dtype.itemsize > 1
    dataset = group.create_dataset(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(rows_a_chunk, *values.shape[1:]),
        shuffle=shuffle,
        compression="gzip",
        compression_opts=_COMPRESSION,
    )
    for start in range(0, len(values), rows_a_chunk):
        chunk = np.ascontiguousarray(values[start : start + rows_a_chunk])
        plain = chunk.view(np.uint8).reshape(-1, values.dtype.itemsize).T.tobytes() if shuffle else chunk.tobytes()
        offset = (start,) + (0,) * (values.ndim - 1)
        dataset.id.write_direct_chunk(offset, zlib.compress(plain, _COMPRESSION))
    return dataset


@contextmanager
def disk_errors() -> Iterator[None]:
    """HDF5 reports a full disk in the text of various errors: make it an `OSError` with its number."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        for number, text in ((errno.ENOSPC, "No space left on device"), (errno.EDQUOT, "Disk quota exceeded")):
            if text in str(error):
                raise OSError(number, text) from error
        raise
