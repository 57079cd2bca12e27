"""The `lowdim_transformer` backbone: the simulator's own state as tokens of a transformer.

For experiments with adapters and prompts that take minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vla_cl.data import ObservationBatch
from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import BACKBONES, Backbone, Context, ContextShape, PolicyFeatures
from vla_cl.policies.instruction import build_instruction_encoder, resolve_instruction_encoder, with_instruction_encoder
from vla_cl.policies.layers import TransformerLayer, token, token_mlp
from vla_cl.policies.options import check_at_least
from vla_cl.policies.soft_prompts import through_layers

KIND = "backbone 'lowdim_transformer'"


@dataclass(frozen=True)
class LowDimTransformerOptions:
    """Sizes.

    Args:
        width: D, of a token.
        layers: Of the transformer trunk.
        heads: Of its attention.
        state_tokens: Into how many tokens the state is cut, in equal parts.
        instruction_encoder: "minilm" (frozen, pretrained), "learned", or "auto": the first where it is installed.
    """

    width: int = 128
    layers: int = 3
    heads: int = 4
    state_tokens: int = 3
    instruction_encoder: str = "auto"

    def __post_init__(self) -> None:
        check_at_least(KIND, self, {"width": 2, "layers": 1, "heads": 1, "state_tokens": 1})
        if self.width % self.heads:
            raise ConfigurationError(f"width {self.width} of {KIND} must be a multiple of its {self.heads} heads")


@BACKBONES.decorator("lowdim_transformer")
class LowDimTransformerBackbone(Backbone):
    """State, proprioception and instruction as tokens of a transformer."""

    Options = LowDimTransformerOptions

    def __init__(self, options: LowDimTransformerOptions, features: PolicyFeatures) -> None:
        super().__init__()
        if not features.environment_state_dim:
            raise ConfigurationError(f"{KIND} reads the simulator's state; set privileged=true")
        width, self.state_tokens = options.width, options.state_tokens
        self.part = -(-features.environment_state_dim // self.state_tokens)
        self.shape = ContextShape(width, features.agent_pos_dim, tokens=2 + self.state_tokens)
        self.instruction = build_instruction_encoder(resolve_instruction_encoder(options.instruction_encoder))
        self.instruction_token = nn.Linear(self.instruction.embedding_dim, width)
        self.proprioception_token = token_mlp(features.agent_pos_dim, width)
        self.state_token = token_mlp(self.part, width)
        self.kinds = token(2 + self.state_tokens, width)
        self.layers = nn.ModuleList(TransformerLayer(width, options.heads) for _ in range(options.layers))
        self.prompt_width, self.prefix_layers = width, options.layers
        self.norm = nn.LayerNorm(width)

    @classmethod
    def resolve(cls, options: Any) -> Any:
        return with_instruction_encoder(options)

    def forward(self, observation: ObservationBatch) -> Context:
        """Instruction, proprioception, then the parts of the state."""
        state = observation.environment_state
        if state is None:
            raise ConfigurationError(
                "this policy reads the simulator's state; ask the environment for privileged state"
            )
        instruction = self.instruction_token(self.instruction(observation.instruction, state.device))
        proprioception = self.proprioception_token(observation.agent_pos)
        padded = F.pad(state, (0, self.part * self.state_tokens - state.shape[1]))
        parts = padded.view(len(state), self.state_tokens, self.part)
        told = torch.stack([instruction, proprioception], dim=1)
        hidden = torch.cat([told, self.state_token(parts)], dim=1) + self.kinds
        hidden = through_layers(self.layers, hidden, self.soft_prompts)
        return Context(self.norm(hidden), observation.agent_pos)
