"""Sequential fine-tuning: train on each task in turn and do nothing about forgetting. The lower reference."""

from __future__ import annotations

from typing import ClassVar

from vla_cl.strategies.base import STRATEGIES, Strategy


@STRATEGIES.decorator("sequential")
class Sequential(Strategy):
    """Plain fine-tuning on the present task."""

    task_free: ClassVar[bool] = True
