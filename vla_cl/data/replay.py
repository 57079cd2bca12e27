"""What a learner keeps of earlier tasks: which windows of which demonstration files, not copies of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.data.batch import Batch
from vla_cl.data.concatenation import ConcatenatedWindows
from vla_cl.data.windows import WindowDataset
from vla_cl.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor


class ReplayMemory:
    """Windows of several demonstration files, drawn from uniformly. `len` is the number of windows kept.

    A restored memory opens the files when it is first drawn from or added to, not before: acting needs none, so a
    checkpoint can be rolled out where the demonstrations are not.
    """

    def __init__(self) -> None:
        self._sources: list[WindowDataset | Mapping[str, Any]] = []  # datasets, or descriptions of those to be opened
        self._indices: list[NDArray[np.int64]] = []
        self._windows: ConcatenatedWindows | None = None
        self._kept = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return sum(map(len, self._indices))

    def add(
        self,
        dataset: WindowDataset,
        *,
        count: int | None = None,
        fraction: float | None = None,
        by: str = "episode",
        generator: np.random.Generator,
    ) -> None:
        """Keep a random part of a dataset.

        Args:
            dataset: Whose windows to keep.
            count: Episodes or windows to keep, all of them when there are fewer. Give this or `fraction`.
            fraction: Share of the episodes or windows, 0 to 1, rounded; at least one unless it is 0.
            by: "episode" keeps every window of the chosen episodes, "transition" single windows.
            generator: Draws them, without replacement.

        Raises:
            ConfigurationError: An argument is out of range, or the dataset's cameras, chunk or privileged state are not
                those of the datasets before.
            DataFileError: A file of a restored memory is gone or holds other demonstrations now.
        """
        if by not in ("episode", "transition"):
            raise ConfigurationError(f"by must be 'episode' or 'transition', got {by!r}")
        available = len(dataset.episode_lengths) if by == "episode" else len(dataset)
        kept = _amount(count, fraction, available)
        if kept == 0:
            return
        chosen = np.sort(generator.permutation(available)[:kept])
        windows = np.flatnonzero(np.isin(dataset.window_episodes, chosen)) if by == "episode" else chosen
        self._set([*self._datasets(), dataset], [*self._indices, windows])

    def _set(self, datasets: list[WindowDataset], indices: list[NDArray[np.int64]]) -> None:
        windows = ConcatenatedWindows(datasets)
        starts = np.cumsum([0, *map(len, datasets[:-1])])
        self._kept = np.concatenate([start + kept for start, kept in zip(starts, indices, strict=True)])
        self._sources, self._indices, self._windows = list(datasets), indices, windows

    def _datasets(self) -> list[WindowDataset]:
        """The datasets, opened."""
        return [
            source if isinstance(source, WindowDataset) else WindowDataset.from_description(source)
            for source in self._sources
        ]

    def sample(self, n: int, generator: np.random.Generator) -> Batch:
        """n windows, each drawn uniformly from all that are kept, with replacement.

        Raises:
            ConfigurationError: The memory is empty.
            DataFileError: A file of a restored memory is gone or holds other demonstrations now.
        """
        if not self._sources:
            raise ConfigurationError("the replay memory is empty; add demonstrations before sampling")
        if self._windows is None:
            self._set(self._datasets(), self._indices)
        assert self._windows is not None
        return self._windows.batch(self._kept[generator.integers(len(self), size=n)])

    @property
    def bytes(self) -> int:
        """What the kept windows would weigh if they were copied: observation and chunk of actions of each.

        Raises:
            DataFileError: A file of a restored memory is gone or holds other demonstrations now.
        """
        parts = zip(self._indices, self._datasets(), strict=True)
        return sum(len(kept) * dataset.window_bytes for kept, dataset in parts)

    def state_dict(self) -> dict[str, Any]:
        """Descriptions of the datasets and indices into them; no demonstration is copied."""
        import torch

        entries = zip(self._sources, self._indices, strict=True)
        return {
            str(position): {"dataset": _description(source), "indices": torch.from_numpy(indices.copy())}
            for position, (source, indices) in enumerate(entries)
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`. The demonstration files are opened when they are needed, not here."""
        entries = [state[key] for key in sorted(state, key=int)]
        self._sources = [entry["dataset"] for entry in entries]
        self._indices = [_indices(entry["indices"]) for entry in entries]
        self._windows = None


def _description(source: WindowDataset | Mapping[str, Any]) -> dict[str, Any]:
    return source.describe() if isinstance(source, WindowDataset) else dict(source)


def _indices(tensor: Tensor) -> NDArray[np.int64]:
    return np.array(tensor.cpu().numpy(), np.int64)


def _amount(count: int | None, fraction: float | None, available: int) -> int:
    if (count is None) == (fraction is None):
        raise ConfigurationError("give either count or fraction of what replay keeps, not both")
    if count is not None:
        if count < 0:
            raise ConfigurationError(f"count must be at least 0, got {count}")
        return min(count, available)
    assert fraction is not None
    if not 0.0 <= fraction <= 1.0:
        raise ConfigurationError(f"fraction must be 0 to 1, got {fraction}")
    return max(1, round(fraction * available)) if fraction else 0
