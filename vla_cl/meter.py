"""What a piece of work takes, in seconds and joules, counted once however often its process is killed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vla_cl.energy import EnergyCounter


@dataclass(frozen=True)
class Spent:
    """What was spent.

    Args:
        seconds: Of a clock that nobody sets.
        joules: None where they are not measured.
    """

    seconds: float = 0.0
    joules: float | None = None

    def named(self, work: str) -> dict[str, float | None]:
        """As a ledger keeps it."""
        return {f"{work}_seconds": self.seconds, f"{work}_joules": self.joules}

    def __add__(self, other: Spent) -> Spent:
        known = self.joules is not None and other.joules is not None
        joules = self.joules + other.joules if known else None  # type: ignore[operator]
        return Spent(self.seconds + other.seconds, joules)


class Meter:
    """Measures from its making on.

    Args:
        energy: Of the machine.
    """

    def __init__(self, energy: EnergyCounter) -> None:
        self._energy = energy
        self._before = Spent(0.0, 0.0)
        self._begin()

    def _begin(self) -> None:
        self._started = time.perf_counter()
        self._joules = self._energy.joules()

    def spent(self) -> Spent:
        """All that was spent."""
        joules = self._energy.joules()
        known = joules is not None and self._joules is not None
        used = joules - self._joules if known else None  # type: ignore[operator]
        return self._before + Spent(time.perf_counter() - self._started, used)

    def state_dict(self) -> dict[str, Any]:
        """What is kept with a checkpoint of the work."""
        return asdict(self.spent())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: what was spent until then, and nothing of what this process did to get there.

        So work that is done again after a kill counts once, and so does the way back to the checkpoint.
        """
        self._before = Spent(state["seconds"], state["joules"])
        self._begin()
