"""Splitting demonstrations at random: as masks in the file, as robomimic reads them, or into files of their own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from vla_cl.data.demonstrations import DemonstrationFile
from vla_cl.data.hdf5 import disk_errors, write_demonstrations, write_splits
from vla_cl.data.integrity import CHECKSUM, content_checksum
from vla_cl.errors import ConfigurationError
from vla_cl.files import atomic_path
from vla_cl.progress import counted, progress_bar
from vla_cl.seeding import numpy_generator

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
TOLERANCE = 1e-6


def split_indices(count: int, shares: Mapping[str, float], seed: int = 0) -> dict[str, list[int]]:
    """Divide `count` demonstrations at random; a function of the arguments alone.

    Every demonstration is in exactly one split, and each split has its share to within one demonstration (largest
    remainders are rounded up).

    Args:
        count: How many demonstrations there are.
        shares: Share of each split, positive, 1 in all.
        seed: Names the random choice.

    Returns:
        For each split, in the order of `shares`, its demonstrations in ascending order.

    Raises:
        ConfigurationError: A name or a share cannot be used, or a split would be empty.
    """
    for name, share in shares.items():
        if not NAME.fullmatch(name):
            raise ConfigurationError(f"split name {name!r} cannot be used; take letters, digits, - _ and .")
        if not 0.0 < share <= 1.0:
            raise ConfigurationError(f"the share of split {name!r} must be above 0 and at most 1, got {share}")
    if abs(sum(shares.values()) - 1.0) > TOLERANCE:
        raise ConfigurationError(f"the shares of the splits must add up to 1, got {sum(shares.values()):g}")
    exact = np.array(list(shares.values())) * count
    sizes = np.floor(exact + TOLERANCE).astype(np.int64)
    missing = count - int(sizes.sum())
    sizes[np.argsort(sizes - exact, kind="stable")[:missing]] += 1
    for name, size in zip(shares, sizes, strict=True):
        if size == 0:
            raise ConfigurationError(f"split {name!r} would be empty: its share of {count} demonstrations is too small")
    order = numpy_generator("split", seed).permutation(count)
    parts = np.split(order, np.cumsum(sizes)[:-1])
    return {name: sorted(part.tolist()) for name, part in zip(shares, parts, strict=True)}


def split_masks(
    path: Path, shares: Mapping[str, float], *, seed: int = 0, output: Path | None = None
) -> dict[str, list[int]]:
    """Write `mask/<split>` for each split, in place of the masks that were there, and renew the checksum.

    The file is copied, changed and renamed: at any moment there is the whole old file or the whole new one.

    Args:
        path: A demonstration file; its checksum must be right.
        shares: See `split_indices`, like `seed`.
        seed: Names the random choice.
        output: Where the file with the masks goes; None is `path` itself.

    Returns:
        The demonstrations of each split.

    Raises:
        DataFileError: `path` cannot be used, or was changed after it was written.
        ConfigurationError: What `split_indices` raises.
    """
    path = Path(path)
    with DemonstrationFile(path) as file:
        splits = split_indices(len(file), shares, seed)
        file.verify()  # a new checksum must not vouch for damage
    with atomic_path(path.resolve() if output is None else Path(output)) as temporary:
        shutil.copyfile(path, temporary)
        with disk_errors(), h5py.File(temporary, "r+", locking=False) as copy:
            write_splits(copy, splits)
            copy.flush()
            copy["data"].attrs[CHECKSUM] = content_checksum(copy)
    return splits


def split_files(
    path: Path, shares: Mapping[str, float], folder: Path | None = None, *, seed: int = 0
) -> dict[str, Path]:
    """Write the demonstrations of each split into a file of its own. All files appear, or none.

    Args:
        path: A demonstration file; its checksum must be right. It stays as it is.
        shares: See `split_indices`, like `seed`.
        folder: Where the files go, see `split_paths`.
        seed: Names the random choice.

    Returns:
        The file of each split.

    Raises:
        DataFileError: `path` cannot be used, or was changed after it was written.
        ConfigurationError: What `split_indices` raises.
    """
    paths = split_paths(path, shares, folder)
    with DemonstrationFile(path) as file:
        splits = split_indices(len(file), shares, seed)
        file.verify()
        with ExitStack() as stack, progress_bar(f"splitting {file.task}", len(splits)) as advance:
            temporaries = {name: stack.enter_context(atomic_path(paths[name])) for name in splits}
            for name, indices in counted(splits.items(), advance):
                origin = {"file": file.path.name, "checksum": file.checksum, "split": name, "demonstrations": indices}
                collection = {**file.header.collection, "episodes": len(indices), "split_from": origin}
                header = replace(file.header, collection=collection)
                write_demonstrations(temporaries[name], header, map(file.episode, indices))
    return paths


def split_paths(path: Path, shares: Mapping[str, float], folder: Path | None = None) -> dict[str, Path]:
    """The files that `split_files` writes: `<folder>/<name of path>-<split>.hdf5`, by default beside `path`."""
    path = Path(path)
    folder = path.parent if folder is None else Path(folder)
    return {name: folder / f"{path.stem}-{name}{path.suffix}" for name in shares}
