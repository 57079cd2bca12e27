"""A robot that is late."""

from __future__ import annotations

from typing import ClassVar

from vla_cl.envs.perturbations.base import PERTURBATIONS, Perturbation


@PERTURBATIONS.decorator("action_delay")
class ActionDelay(Perturbation):
    """Every action takes effect some control steps after it was given; until the first one does, the robot rests."""

    levels: ClassVar = {"small": 1.0, "medium": 2.0, "large": 4.0}
    unit: ClassVar = "control steps"
    largest: ClassVar = 100.0
    whole: ClassVar = True

    @property
    def delay(self) -> int:
        """Control steps by which actions are late."""
        return int(self.strength)
