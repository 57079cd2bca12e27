"""A memory of bounded size for a stream of windows of which nobody says how long it is or where its tasks begin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from vla_cl.data.batch import Batch
from vla_cl.data.replay import ReplayMemory
from vla_cl.data.segments import units_of
from vla_cl.data.windows import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.seeding import numpy_generator

RESERVOIR_RULES = ("reservoir", "ring", "balanced")


class Reservoir:
    """At most `capacity` windows of those that came by.

    Every unit (a window, or an episode or phase of which windows stay and go together) has a key, and small keys stay.
    Windows belong to groups. When there are too many, the unit with the largest key in the largest group goes, and that
    key is the group's limit from then on: so a group holds, at any time, exactly those of its windows that came by and
    have keys below its limit.

    - "reservoir": keys are random, and all windows are one group. What is kept is a uniform sample of all that came by
      (Vitter, "Random Sampling with a Reservoir", 1985; with random keys as Efraimidis and Spirakis, 2006).
    - "balanced": keys are random, every dataset is a group: a uniform sample of each task, equally many of all tasks
      that have so many (class-balancing reservoir sampling: Chrysakis and Moens, "Online Continual Learning from
      Imbalanced Data", ICML 2020, algorithm 1, with a robot's tasks as classes).
    - "ring": the same, but the newest units of each task stay instead of random ones: the last in the order in which
      its demonstrations were recorded, as a ring buffer through which they pass leaves them (Chaudhry et al.,
      arXiv 1902.10486).

    A window that comes by again, in a later epoch or because its task comes again, counts once: its key is a function
    of the seed and of which window it is. That is ours; the papers see a stream once.

    Args:
        capacity: Windows kept, at least 0.
        rule: In `RESERVOIR_RULES`.
        seed: Of the keys.
        by: What a unit is; see `units_of`.
        phases: Of an episode.

    Attributes:
        memory: What is kept.
    """

    def __init__(self, capacity: int, rule: str, seed: int, *, by: str = "transition", phases: int = 3) -> None:
        if capacity < 0:
            raise ConfigurationError(f"capacity must be at least 0, got {capacity}")
        if rule not in RESERVOIR_RULES:
            raise ConfigurationError(f"rule must be one of {', '.join(RESERVOIR_RULES)}, got {rule!r}")
        self.capacity, self.rule, self.seed, self.by, self.phases = capacity, rule, seed, by, phases
        self.memory = ReplayMemory()
        self._limits: dict[int, float] = {}
        self._keys: WeakKeyDictionary[WindowDataset, NDArray[np.float64]] = WeakKeyDictionary()

    def offer(self, batch: Batch) -> None:
        """Let the windows of a batch come by, as far as it is known which they are."""
        if not self.capacity:
            return
        for dataset, windows in batch.origin:
            new = np.setdiff1d(windows, self.memory.windows[self.memory.rows(dataset)])
            group = self.memory.owner(dataset) if self._by_task else 0
            limit = np.inf if group is None else self._limits.get(group, np.inf)
            self.memory.put(dataset, new[self._keys_of(dataset)[new] < limit])
        if len(self.memory) > self.capacity:
            self._shrink()

    def _shrink(self) -> None:
        """Let units go, until what is left is not too much."""
        keys = np.zeros(len(self.memory))
        for dataset in self.memory.datasets:
            rows = self.memory.rows(dataset)
            keys[rows] = self._keys_of(dataset)[self.memory.windows[rows]]
        groups = self.memory.owners if self._by_task else np.zeros_like(self.memory.owners)
        kept = np.arange(len(self.memory))
        while len(kept) > self.capacity:
            largest = int(np.bincount(groups[kept]).argmax())
            limit = keys[kept[groups[kept] == largest]].max()
            kept = kept[(groups[kept] != largest) | (keys[kept] < limit)]
            self._limits[largest] = float(limit)
        self.memory.drop(np.setdiff1d(np.arange(len(self.memory)), kept))

    @property
    def _by_task(self) -> bool:
        return self.rule != "reservoir"

    def _keys_of(self, dataset: WindowDataset) -> NDArray[np.float64]:
        """The key of each window (N,)."""
        if dataset not in self._keys:
            units = units_of(dataset, self.by, self.phases)
            count = int(units.max(initial=-1)) + 1
            recorded = -np.arange(count, dtype=np.float64)
            drawn = numpy_generator(self.seed, "reservoir", dataset.task).random(count)
            self._keys[dataset] = (recorded if self.rule == "ring" else drawn)[units]
        return self._keys[dataset]

    def state_dict(self) -> dict[str, Any]:
        """What is kept, as `ReplayMemory` says it, and the limits."""
        return {
            "memory": self.memory.state_dict(),
            "limits": {str(group): limit for group, limit in self._limits.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`."""
        self.memory.load_state_dict(state["memory"])
        self._limits = {int(group): float(limit) for group, limit in state["limits"].items()}
