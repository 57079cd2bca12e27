"""The order in which windows are learned, as a pure function of where training is."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vla_cl.errors import DataFileError
from vla_cl.seeding import numpy_generator


@lru_cache(maxsize=4)
def epoch_order(length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation (length,) of an epoch; a function of its arguments alone. Read-only, because it is kept."""
    order = numpy_generator("order", seed, epoch).permutation(length)
    order.setflags(write=False)
    return order


def batch_indices(length: int, batch_size: int, seed: int, step: int) -> NDArray[np.int64]:
    """Which windows make up a training step, whatever ran before.

    Epochs, each a fresh permutation, are laid end to end and cut into batches, so that every batch is full and every
    window is seen once before any is seen again. Costs O(batch_size), but for one permutation an epoch.

    Args:
        length: Number of windows.
        batch_size: B.
        seed: Names the order.
        step: From 0.

    Returns:
        (B,) int64 in [0, length).
    """
    if length < 1:
        raise DataFileError("there are no windows to sample from; collect demonstrations first")
    parts = []
    position, missing = step * batch_size, batch_size
    while missing:
        epoch, offset = divmod(position, length)
        part = epoch_order(length, seed, epoch)[offset : offset + missing]
        parts.append(part)
        position, missing = position + len(part), missing - len(part)
    return np.concatenate(parts)
