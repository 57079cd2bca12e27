"""Several datasets seen as one, for training on many tasks at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_cl.data.batch import Batch, concatenate
from vla_cl.data.sampling import epoch_order
from vla_cl.data.windows import WindowDataset
from vla_cl.errors import ConfigurationError


class ConcatenatedWindows:
    """The windows of several datasets, end to end; episodes are counted through.

    Args:
        datasets: At least one; all with the same cameras, chunk, privileged state and shapes of features.

    Attributes:
        datasets: The parts, in order.
        episode_lengths: (n_episodes,) int64 over all parts.
        window_episodes: (N,) int64, for each window the position of its episode in `episode_lengths`.
    """

    def __init__(self, datasets: Sequence[WindowDataset]) -> None:
        if not datasets:
            raise ConfigurationError("nothing to concatenate; give at least one dataset")
        kinds = {(each.chunk, each.history, each.lookback, each.cameras, each.privileged) for each in datasets}
        if len(kinds) > 1:
            raise ConfigurationError(
                "datasets can be concatenated only if chunk, history, lookback, cameras and privileged state agree"
            )
        layouts = {each.features.layout if each.features else None for each in datasets}
        if len(layouts) > 1:
            raise ConfigurationError(
                "datasets can be concatenated only if all or none have cached features, and these are of the same "
                "shapes; to compute them in every step set training.cache_features=false"
            )
        self.datasets = tuple(datasets)
        self.episode_lengths = np.concatenate([dataset.episode_lengths for dataset in datasets])
        self.window_episodes = np.repeat(np.arange(len(self.episode_lengths)), self.episode_lengths)
        self._ends = np.cumsum([len(dataset) for dataset in datasets])

    def __len__(self) -> int:
        return len(self.window_episodes)

    @property
    def task(self) -> str:
        """The tasks' names, joined."""
        return "+".join(dataset.task for dataset in self.datasets)

    @property
    def chunk(self) -> int:
        """Actions in a window."""
        return self.datasets[0].chunk

    def batch(self, indices: ArrayLike) -> Batch:
        """The windows `indices` (B,), in this order, repetitions allowed.

        Raises:
            IndexError: An index is not in [0, len(self)).
        """
        rows = np.asarray(indices, np.int64).reshape(-1)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"window {rows.min() if rows.min() < 0 else rows.max()} is not in [0, {len(self)})")
        owners = np.searchsorted(self._ends, rows, side="right")
        parts, places = [], []
        for owner in np.unique(owners):
            mine = np.flatnonzero(owners == owner)
            dataset = self.datasets[owner]
            parts.append(dataset.batch(rows[mine] - (self._ends[owner] - len(dataset))))
            places.append(mine)
        if not parts:
            return self.datasets[0].batch(rows)
        return concatenate(parts)[np.argsort(np.concatenate(places)).tolist()]

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """A permutation (N,) of the windows: a pure function of (seed, epoch)."""
        return epoch_order(len(self), seed, epoch)

    def vectors(self, name: str) -> Iterator[NDArray[np.float32]]:
        """Every step's "actions", "agent_pos" or "environment_state", in blocks (n, D), each step once."""
        for dataset in self.datasets:
            yield from dataset.vectors(name)

    def describe(self) -> dict[str, Any]:
        """JSON from which `from_description` opens the same windows again."""
        return {"datasets": [dataset.describe() for dataset in self.datasets]}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> ConcatenatedWindows:
        """Open what `describe` described."""
        return cls([WindowDataset.from_description(each) for each in description["datasets"]])
