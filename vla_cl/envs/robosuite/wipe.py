"""Which dirt has been wiped: the one thing that robosuite's tasks keep in Python and not in the simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class WipedMarkers:
    """The markers of robosuite's Wipe as numbers.

    Args:
        raw: The robosuite environment; one without markers has none.

    Attributes:
        bodies, geoms: The markers' numbers in the model.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._markers = list(getattr(raw.model.mujoco_arena, "markers", ()))
        model = raw.sim.model
        self.bodies = [int(model.body_name2id(marker.root_body)) for marker in self._markers]
        self.geoms = [int(model.geom_name2id(marker.visual_geoms[0])) for marker in self._markers]

    def get(self) -> NDArray[np.float64]:
        """1 for each wiped marker, 0 for the others (M,)."""
        wiped = {id(marker) for marker in self._raw.wiped_markers} if self._markers else set()
        return np.array([id(marker) in wiped for marker in self._markers], dtype=np.float64)

    def set(self, wiped: NDArray[np.float64]) -> None:
        """Restore what `get` returned. The order in which they were wiped does not matter to anybody."""
        if self._markers:
            self._raw.wiped_markers = [marker for marker, done in zip(self._markers, wiped, strict=True) if done]

    def dirty_positions(self) -> NDArray[np.float64]:
        """Where dirt is left (K, 3), in metres."""
        left = [body for body, done in zip(self.bodies, self.get(), strict=True) if not done]
        positions: NDArray[np.float64] = self._raw.sim.data._data.xpos[left].reshape(-1, 3)
        return positions

    def __len__(self) -> int:
        return len(self._markers)
