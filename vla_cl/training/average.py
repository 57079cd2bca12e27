"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """`average <- d_k average + (1 - d_k) theta` with `d_k = min(decay, (1 + k) / (10 + k))` at update k.

    The ramp, TensorFlow's `ExponentialMovingAverage` with `num_updates`, forgets the starting point of a short run.

    Args:
        parameters: What is averaged; the average starts at their present values.
        decay: 0 to 1.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Take one step towards the present values."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        values = [parameters[name].detach() for name in self.average]
        torch._foreach_lerp_(list(self.average.values()), values, 1 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Put the average in place of the values."""
        for name, value in self.average.items():
            parameters[name].copy_(value)

    def state_dict(self) -> dict[str, Tensor | int | dict[str, Tensor]]:
        """The average and the count of updates."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore `state_dict()`, on the devices of the present average."""
        self.updates = int(state["updates"])  # type: ignore[call-overload]
        for name, value in state["average"].items():  # type: ignore[attr-defined]
            self.average[name].copy_(value)
