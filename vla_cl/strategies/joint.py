"""Joint training: every stage trains on the demonstrations of all tasks so far. The upper reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.replay import Replay


@STRATEGIES.decorator("joint")
class Joint(Replay):
    """Cumulative multi-task training: replay of everything.

    Each row of a batch comes from an earlier task with the probability that a uniform draw from all windows seen so
    far would have it. The weights carry over from stage to stage, so the last stage has seen every task and the whole
    training budget; `cumulative` starts each stage from the initial weights instead. With one task both are single-task
    training.
    """

    @dataclass
    class Options:
        """No options."""

    def __init__(self, options: Any, seed: int) -> None:
        super().__init__(Replay.Options(fraction=1.0, by="transition", ratio=None), seed)
