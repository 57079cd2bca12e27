"""What a conversion reads from, whatever layout it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vla_cl.data.schema import Episode, Header


class Recordings(Protocol):
    """Demonstrations of one task, one at a time: `Demonstrations`, `LeRobotTask`.

    Attributes:
        header: What is said once about all of them.
        splits: Indices of the demonstrations of each split.
    """

    @property
    def header(self) -> Header: ...

    @property
    def splits(self) -> Mapping[str, NDArray[np.int64]]: ...

    def __len__(self) -> int: ...

    def episode(self, index: int) -> Episode:
        """One demonstration in memory, with all observations."""
        ...
