"""Phases of manipulation: where an episode is cut, and how a memory is shared among them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.data import WindowDataset, phases_of

SEGMENTATIONS = ("change_points", "time")


def equal_shares(available: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """How many windows (P,) each phase keeps of a budget: equally many, up to what it has; what one leaves goes to the
    others, and what does not divide to the first of them.
    """
    shares = np.zeros_like(available)
    while (left := min(budget, int(available.sum())) - int(shares.sum())) > 0:
        open_ = np.flatnonzero(shares < available)
        equal = max(1, left // len(open_))
        shares[open_[:left]] = np.minimum(shares[open_[:left]] + equal, available[open_[:left]])
    return shares


def window_phases(data: WindowDataset, phases: int, segmentation: str) -> NDArray[np.int64]:
    """The phase (N,) of each window of a dataset."""
    if segmentation == "time":
        return phases_of(data, phases)
    actions = np.concatenate(list(data.vectors("actions")))
    ends = np.cumsum(data.episode_lengths)[:-1]
    return np.concatenate([change_points(episode, phases) for episode in np.split(actions, ends)])


def change_points(signal: NDArray[np.floating[Any]], parts: int) -> NDArray[np.int64]:
    """Cut a signal into parts in which it is as constant as possible.

    Optimal partitioning by dynamic programming (Auger and Lawrence, 1989): of all ways to cut, the one with the least
    sum of squared distances to each part's mean. A part has at least a quarter of the steps that equal parts would
    have, so that no outlier is a phase.

    Args:
        signal: (T, D).
        parts: How many; where T is smaller, each step is a part.

    Returns:
        The part of each step (T,), in [0, parts).
    """
    steps = len(signal)
    if steps <= parts:
        return np.arange(steps, dtype=np.int64)
    shortest = max(1, steps // (4 * parts))
    zero = np.zeros((1, signal.shape[1]))
    sums = np.concatenate([zero, np.cumsum(signal, axis=0, dtype=np.float64)])
    squares = np.concatenate([[0.0], np.cumsum((signal.astype(np.float64) ** 2).sum(axis=1))])
    lengths = np.arange(steps + 1)[None] - np.arange(steps + 1)[:, None]  # of the part from i to j
    squared_sums = ((sums[None] - sums[:, None]) ** 2).sum(axis=2)
    cost = squares[None] - squares[:, None] - squared_sums / np.maximum(lengths, 1)
    cost[lengths < shortest] = np.inf

    best = cost[0]  # of the first j steps in one part
    origins = []
    for _ in range(parts - 1):
        totals = best[:, None] + cost
        origins.append(totals.argmin(axis=0))
        best = totals.min(axis=0)
    cuts, end = [], steps
    for origin in reversed(origins):
        end = int(origin[end])
        cuts.append(end)
    return np.searchsorted(np.array(cuts[::-1]), np.arange(steps), side="right").astype(np.int64)
