"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """`average <- d_t average + (1 - d_t) theta` at update t, from 0, with a decay that grows to its final value, so
    that the starting point of a short run is forgotten.

    - `d_t = min(decay, (2 + t) / (11 + t))`, TensorFlow's `ExponentialMovingAverage` with `num_updates`; or
    - `d_t = min(decay, 1 - (1 + t)^-power)` where a power is given: Diffusion Policy's (Chi et al., arXiv 2303.04137),
      with power 0.75. Its first update copies the weights.

    Args:
        parameters: What is averaged; the average starts at their present values.
        decay: 0 to 1.
        power: Of the growth; 0 for the first form.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float, power: float = 0.0) -> None:
        self.decay = decay
        self.power = power
        self.updates = 0
        self.average = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def decay_at(self, update: int) -> float:
        """d_t."""
        growing = 1 - (1 + update) ** -self.power if self.power else (2 + update) / (11 + update)
        return min(self.decay, growing)

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Take one step towards the present values."""
        decay = self.decay_at(self.updates)
        self.updates += 1
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
