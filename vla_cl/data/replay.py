"""What a learner keeps of earlier tasks: which windows of which demonstration files, not copies of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_cl.data.batch import Batch
from vla_cl.data.concatenation import ConcatenatedWindows
from vla_cl.data.segments import units_of
from vla_cl.data.windows import WindowDataset
from vla_cl.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor


class ReplayMemory:
    """Windows of several demonstration files, in rows that are counted from 0. `len` is the number of windows kept.

    Datasets with the same description are the same, whichever object it is: a task that comes again is not counted
    twice. A restored memory opens the files when it is first drawn from or added to, not before: acting needs none, so
    a checkpoint can be rolled out where the demonstrations are not.

    Attributes:
        owners: (n,) int64, for each row the number of its dataset, in the order in which datasets came; a dataset keeps
            its number when its last window is dropped.
        windows: (n,) int64, for each row the window of that dataset.
    """

    def __init__(self) -> None:
        self._sources: list[WindowDataset | Mapping[str, Any]] = []  # datasets, or descriptions of those to be opened
        self._joined: ConcatenatedWindows | None = None
        self.owners = np.zeros(0, np.int64)
        self.windows = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.windows)

    # --- what is kept --------------------------------------------------------------------------------------

    def add(
        self,
        dataset: WindowDataset,
        *,
        count: int | None = None,
        fraction: float | None = None,
        by: str = "episode",
        phases: int = 3,
        generator: np.random.Generator,
    ) -> None:
        """Keep a random part of a dataset, in place of what was kept of it before.

        Args:
            dataset: Whose windows to keep.
            count: Units to keep, all of them when there are fewer. Give this or `fraction`.
            fraction: Share of the units, 0 to 1, rounded; at least one unless it is 0.
            by: What a unit is: "episode" keeps every window of the chosen episodes, "phase" every window of chosen
                parts of episodes, "transition" single windows.
            phases: Into how many equally long parts "phase" cuts an episode.
            generator: Draws them, without replacement.

        Raises:
            ConfigurationError: An argument is out of range, or the dataset's cameras, chunk or privileged state are not
                those of the datasets before.
            DataFileError: A file of a restored memory is gone or holds other demonstrations now.
        """
        units = units_of(dataset, by, phases)
        available = int(units.max(initial=-1)) + 1
        kept = _amount(count, fraction, available)
        self.drop(self.rows(dataset))
        if kept:
            chosen = generator.permutation(available)[:kept]
            self.put(dataset, np.flatnonzero(np.isin(units, chosen)))

    def put(self, dataset: WindowDataset, windows: ArrayLike) -> None:
        """Keep these windows of a dataset, in new rows after the others.

        Raises:
            ConfigurationError: The dataset's cameras, chunk or privileged state are not those of the datasets before.
            DataFileError: A file of a restored memory is gone or holds other demonstrations now.
        """
        new = np.asarray(windows, np.int64).reshape(-1)
        if len(new):
            owner = self._known(dataset)
            self.owners = np.concatenate([self.owners, np.full(len(new), owner)])
            self.windows = np.concatenate([self.windows, new])

    def take(self, batch: Batch) -> None:
        """Keep the windows of a batch, in its order.

        Raises:
            ConfigurationError: As `put`, or it is not known where they come from.
        """
        if len(batch) and not batch.origin:
            raise ConfigurationError("windows can be kept only where it is known which they are; this batch tells not")
        for dataset, windows in batch.origin:
            self.put(dataset, windows)

    def replace(self, rows: ArrayLike, batch: Batch) -> None:
        """Keep the windows of a batch in rows that hold others now, one each."""
        places = np.asarray(rows, np.int64)
        for dataset, windows in batch.origin:
            mine, places = places[: len(windows)], places[len(windows) :]
            self.owners[mine] = self._known(dataset)
            self.windows[mine] = windows

    def drop(self, rows: ArrayLike) -> None:
        """Keep these rows no more; those after them move up."""
        self.owners = np.delete(self.owners, np.asarray(rows, np.int64))
        self.windows = np.delete(self.windows, np.asarray(rows, np.int64))

    def rows(self, dataset: WindowDataset) -> NDArray[np.int64]:
        """In which rows windows of a dataset are kept; their features or pixels make no difference."""
        owner = self.owner(dataset)
        return np.flatnonzero(self.owners == (-1 if owner is None else owner))

    def owner(self, dataset: WindowDataset) -> int | None:
        """The number of a dataset; None where nothing was kept of it yet."""
        for owner, source in enumerate(self._sources):
            if source is dataset:
                return owner
        identity = _identity(dataset)
        return next((owner for owner, each in enumerate(self._sources) if _identity(each) == identity), None)

    # --- what is read --------------------------------------------------------------------------------------

    def sample(self, n: int, generator: np.random.Generator) -> Batch:
        """n windows, each drawn uniformly from all that are kept, with replacement.

        Raises:
            ConfigurationError: The memory is empty.
            DataFileError: A file of a restored memory is gone or holds other demonstrations now.
        """
        if not len(self):
            raise ConfigurationError("the replay memory is empty; add demonstrations before sampling")
        return self.read(generator.integers(len(self), size=n))

    def read(self, rows: ArrayLike) -> Batch:
        """The windows of some rows, in this order, repetitions allowed; `Batch.origin` tells which they are.

        Raises:
            DataFileError: A file of a restored memory is gone or holds other demonstrations now.
        """
        joined = self._opened()
        starts = np.cumsum([0, *map(len, joined.datasets[:-1])])
        chosen = np.asarray(rows, np.int64).reshape(-1)
        return joined.batch(starts[self.owners[chosen]] + self.windows[chosen])

    @property
    def datasets(self) -> tuple[WindowDataset, ...]:
        """Those that `owners` counts.

        Raises:
            DataFileError: A file of a restored memory is gone or holds other demonstrations now.
        """
        return self._opened().datasets if self._sources else ()

    @property
    def bytes(self) -> int:
        """What the kept windows would weigh if they were copied: observation and chunk of actions of each.

        Raises:
            DataFileError: A file of a restored memory is gone or holds other demonstrations now.
        """
        kept = np.bincount(self.owners, minlength=len(self._sources)).tolist()
        return sum(count * dataset.window_bytes for count, dataset in zip(kept, self.datasets, strict=True))

    # --- state -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Descriptions of the datasets and indices into them; no demonstration is copied."""
        import torch

        entries: dict[str, Any] = {}
        for owner, source in enumerate(self._sources):
            rows = np.flatnonzero(self.owners == owner)
            kept = {"indices": torch.from_numpy(self.windows[rows]), "rows": torch.from_numpy(rows)}
            entries[str(owner)] = {"dataset": _description(source), **kept}
        return entries

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`. The demonstration files are opened when they are needed, not here."""
        entries = [state[key] for key in sorted(state, key=int)]
        self._sources = [entry["dataset"] for entry in entries]
        self._joined = None
        rows = [_indices(entry["rows"]) for entry in entries]
        self.owners, self.windows = np.zeros((2, sum(map(len, rows))), np.int64)
        for owner, (entry, mine) in enumerate(zip(entries, rows, strict=True)):
            self.owners[mine] = owner
            self.windows[mine] = _indices(entry["indices"])

    # --- inside ----------------------------------------------------------------------------------------------

    def _known(self, dataset: WindowDataset) -> int:
        """The number of a dataset from which windows are about to be kept. The newest of equal ones is read from."""
        owner = self.owner(dataset)
        if owner is not None and self._sources[owner] is dataset and self._joined is not None:
            return owner
        sources = list(self._sources)
        place = len(sources) if owner is None else owner
        sources[place : place + 1] = [dataset]
        self._join([_opened(source) for source in sources])
        return place

    def _opened(self) -> ConcatenatedWindows:
        if self._joined is None:
            self._join([_opened(source) for source in self._sources])
        assert self._joined is not None
        return self._joined

    def _join(self, datasets: list[WindowDataset]) -> None:
        self._joined = ConcatenatedWindows(datasets)  # before anything is kept, since it may refuse
        self._sources = list(datasets)


def _opened(source: WindowDataset | Mapping[str, Any]) -> WindowDataset:
    return source if isinstance(source, WindowDataset) else WindowDataset.from_description(source)


def _description(source: WindowDataset | Mapping[str, Any]) -> dict[str, Any]:
    return source.describe() if isinstance(source, WindowDataset) else dict(source)


def _identity(source: WindowDataset | Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in _description(source).items() if key != "features"}


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
