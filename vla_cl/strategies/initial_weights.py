"""The weights from which a policy started, for strategies that start anew at each boundary."""

from __future__ import annotations

import torch
from torch import Tensor

from vla_cl.policies import Policy


class InitialWeights:
    """A policy's parameters as they were when they were first seen, on the CPU.

    Attributes:
        weights: By name; empty before.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}

    def keep_or_restore(self, policy: Policy) -> None:
        """Keep the policy's parameters the first time, put them back into it from then on."""
        parameters = dict(policy.named_parameters())
        if not self.weights:
            self.weights = {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}
            return
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self.weights[name])
