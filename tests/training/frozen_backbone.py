"""A small backbone with a frozen part, for tests of cached features. Sees one camera of 64 x 64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla_cl.data import ObservationBatch
from vla_cl.policies import PolicyFeatures
from vla_cl.policies.base import Backbone, Context, ContextShape
from vla_cl.policies.images import views


@dataclass(frozen=True)
class FrozenOptions:
    """None but whether it is frozen."""

    frozen: bool = True


class FrozenBackbone(Backbone):
    """Frozen convolutions under a trained layer; counts how often the frozen part runs."""

    Options = FrozenOptions
    width = 16
    perceived = 0

    def __init__(self, options: FrozenOptions, features: PolicyFeatures) -> None:
        super().__init__()
        self.options, self.features = options, features
        self.frozen = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.GELU(), nn.Conv2d(8, self.width, 2, 2))
        self.frozen.requires_grad_(not options.frozen)
        self.trained = nn.Linear(self.width, self.width)
        self.proprioception = nn.Linear(features.agent_pos_dim, self.width)
        self.shape = ContextShape(self.width, features.agent_pos_dim, tokens=17)

    def perceive(self, observation: ObservationBatch) -> Mapping[str, Tensor]:
        type(self).perceived += 1
        (view,) = views(observation, self.features)
        maps = self.frozen(view.permute(0, 3, 1, 2).float() / 127.5 - 1)
        lengths = torch.tensor([float(len(text)) for text in observation.instruction], device=maps.device)
        return {"maps": maps.flatten(2).mT + lengths[:, None, None] / 100}

    def fingerprint(self) -> str:
        return f"frozen {float(self.frozen[0].weight.detach().sum())}" if self.options.frozen else ""

    def forward(self, observation: ObservationBatch) -> Context:
        maps = (observation.features or self.perceive(observation))["maps"]
        told = self.proprioception(observation.agent_pos)[:, None]
        return Context(torch.cat([told, self.trained(maps)], dim=1), observation.agent_pos)
