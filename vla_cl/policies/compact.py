"""The `compact` backbone: a small image encoder, a sentence encoder and proprioception under a small transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vla_cl.data import ObservationBatch
from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import BACKBONES, Backbone, Context, ContextShape, PolicyFeatures
from vla_cl.policies.encoders import ConvolutionalEncoder, PatchEncoder
from vla_cl.policies.images import check_cameras, views
from vla_cl.policies.instruction import build_instruction_encoder, resolve_instruction_encoder, with_instruction_encoder
from vla_cl.policies.layers import TransformerLayer, token, token_mlp
from vla_cl.policies.options import check_at_least, check_choice
from vla_cl.policies.soft_prompts import through_layers


@dataclass(frozen=True)
class CompactOptions:
    """Sizes, and the choice of encoders.

    Args:
        encoder: "conv" (keypoints: fast, exact about places) or "vit" (patches).
        channels: Of the convolutions.
        blocks: Residual 3x3 convolutions after the stem of stride 4.
        keypoints: Of each camera.
        patch: Height and width of a ViT patch in pixels.
        width: D, of a token.
        layers: Of the transformer trunk.
        heads: Of its attention.
        instruction_encoder: "minilm" (frozen, pretrained), "learned", or "auto": the first where it is installed.
    """

    encoder: str = "conv"
    channels: int = 32
    blocks: int = 2
    keypoints: int = 32
    patch: int = 8
    width: int = 128
    layers: int = 2
    heads: int = 4
    instruction_encoder: str = "auto"

    def __post_init__(self) -> None:
        kind = "backbone 'compact'"
        check_choice(kind, "encoder", self.encoder, ("conv", "vit"))
        bounds = {"channels": 1, "blocks": 0, "keypoints": 1, "patch": 1, "width": 2, "layers": 0, "heads": 1}
        check_at_least(kind, self, bounds)
        if self.width % self.heads:
            raise ConfigurationError(f"width {self.width} of {kind} must be a multiple of its {self.heads} heads")


@BACKBONES.decorator("compact")
class CompactBackbone(Backbone):
    """Images, instruction and proprioception of one moment, as a handful of tokens; trains on a laptop's CPU."""

    Options = CompactOptions

    def __init__(self, options: CompactOptions, features: PolicyFeatures) -> None:
        super().__init__()
        check_cameras("backbone 'compact'", features)
        stride = 4 if options.encoder == "conv" else options.patch
        if features.image_size % stride:
            raise ConfigurationError(f"image_size must be a multiple of {stride}, got {features.image_size}")
        self.features = features
        width = options.width
        cameras = len(features.cameras)
        tokens = cameras if options.encoder == "conv" else cameras * (features.image_size // options.patch) ** 2
        self.shape = ContextShape(width, features.agent_pos_dim, tokens=2 + tokens)

        self.instruction = build_instruction_encoder(resolve_instruction_encoder(options.instruction_encoder))
        self.instruction_token = nn.Linear(self.instruction.embedding_dim, width)
        self.proprioception_token = token_mlp(features.agent_pos_dim, width)
        self.encoder: ConvolutionalEncoder | PatchEncoder
        if options.encoder == "conv":
            self.encoder = ConvolutionalEncoder(
                channels=options.channels,
                blocks=options.blocks,
                keypoints=options.keypoints,
                cameras=cameras,
                image_size=features.image_size,
                condition_dim=width,
                width=width,
            )
        else:
            self.encoder = PatchEncoder(
                patch=options.patch, cameras=cameras, image_size=features.image_size, width=width
            )
        self.kinds = token(2, width)
        self.layers = nn.ModuleList(TransformerLayer(width, options.heads) for _ in range(options.layers))
        self.prompt_width, self.prefix_layers = (width if options.layers else None), options.layers
        self.norm = nn.LayerNorm(width)

    @classmethod
    def resolve(cls, options: Any) -> Any:
        return with_instruction_encoder(options)

    def forward(self, observation: ObservationBatch) -> Context:
        """Instruction, proprioception, then the images' tokens."""
        instruction = self.instruction_token(self.instruction(observation.instruction, observation.agent_pos.device))
        proprioception = self.proprioception_token(observation.agent_pos)
        seen = self.encoder(views(observation, self.features), instruction)
        told = torch.stack([instruction, proprioception], dim=1) + self.kinds
        hidden = torch.cat([told, seen], dim=1)
        hidden = through_layers(self.layers, hidden, self.soft_prompts)
        return Context(self.norm(hidden), observation.agent_pos)
