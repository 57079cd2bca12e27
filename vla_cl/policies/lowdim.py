"""The `lowdim` backbone: the simulator's own state in place of images, for fast experiments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vla_cl.data import ObservationBatch
from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import BACKBONES, Backbone, Context, ContextShape, PolicyFeatures
from vla_cl.policies.instruction import build_instruction_encoder, resolve_instruction_encoder, with_instruction_encoder
from vla_cl.policies.layers import ResidualMLP
from vla_cl.policies.options import check_at_least


@dataclass(frozen=True)
class LowDimOptions:
    """Sizes.

    Args:
        width: D, of the context and the hidden layers.
        blocks: Residual blocks.
        instruction_encoder: "minilm" (frozen, pretrained), "learned", or "auto": the first where it is installed.
    """

    width: int = 256
    blocks: int = 2
    instruction_encoder: str = "auto"

    def __post_init__(self) -> None:
        check_at_least("backbone 'lowdim'", self, {"width": 2, "blocks": 0})


@BACKBONES.decorator("lowdim")
class LowDimBackbone(Backbone):
    """State, proprioception and instruction through an MLP to one context token."""

    Options = LowDimOptions
    adapter_targets = r"mlp\..*"

    def __init__(self, options: LowDimOptions, features: PolicyFeatures) -> None:
        super().__init__()
        if not features.environment_state_dim:
            raise ConfigurationError("backbone 'lowdim' reads the simulator's state; set privileged=true")
        self.shape = ContextShape(options.width, features.agent_pos_dim, tokens=1)
        self.instruction = build_instruction_encoder(resolve_instruction_encoder(options.instruction_encoder))
        self.instruction_projection = nn.Linear(self.instruction.embedding_dim, options.width)
        self.state_projection = nn.Linear(features.environment_state_dim + features.agent_pos_dim, options.width)
        self.mlp = ResidualMLP(options.width, options.blocks)

    @classmethod
    def resolve(cls, options: Any) -> Any:
        return with_instruction_encoder(options)

    def forward(self, observation: ObservationBatch) -> Context:
        """One token (B, 1, D)."""
        if observation.environment_state is None:
            raise ConfigurationError(
                "this policy reads the simulator's state; ask the environment for privileged state"
            )
        state = torch.cat([observation.environment_state, observation.agent_pos], dim=-1)
        instruction = self.instruction(observation.instruction, state.device)
        hidden: Tensor = self.mlp(self.state_projection(state) + self.instruction_projection(instruction))
        return Context(hidden[:, None], observation.agent_pos)
