"""Demonstrations cut into the units that a memory keeps or drops whole: episodes, their phases, single windows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_cl.data.windows import WindowDataset
from vla_cl.errors import ConfigurationError

UNITS = ("episode", "transition", "phase")


def phases_of(dataset: WindowDataset, phases: int) -> NDArray[np.int64]:
    """The phase of each window (N,) int64 in [0, phases): in which of so many equally long parts of its episode it is.

    Raises:
        ConfigurationError: `phases` is not at least 1.
    """
    if phases < 1:
        raise ConfigurationError(f"phases must be at least 1, got {phases}")
    lengths = dataset.episode_lengths
    starts = np.cumsum(lengths) - lengths
    steps = np.arange(len(dataset)) - starts[dataset.window_episodes]
    return np.asarray(steps * phases // lengths[dataset.window_episodes], np.int64)


def units_of(dataset: WindowDataset, by: str, phases: int = 3) -> NDArray[np.int64]:
    """The unit of each window (N,) int64, counted through from 0 in the order of the file.

    Args:
        dataset: Whose windows.
        by: "episode"; "transition", every window a unit; or "phase", an episode's equally long parts.
        phases: Into how many parts an episode is cut; one with fewer steps gives as many units as it has steps.

    Raises:
        ConfigurationError: An argument is out of range.
    """
    if by not in UNITS:
        raise ConfigurationError(f"by must be 'episode', 'transition' or 'phase', got {by!r}")
    if by == "episode":
        return dataset.window_episodes
    if by == "transition":
        return np.arange(len(dataset), dtype=np.int64)
    phase = dataset.window_episodes * phases + phases_of(dataset, phases)
    units: NDArray[np.int64] = np.unique(phase, return_inverse=True)[1]
    return units
