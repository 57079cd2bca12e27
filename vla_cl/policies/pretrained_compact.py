"""The `pretrained_compact` backbone: ImageNet features and a sentence encoder under a small fresh transformer, all of
it from packages: no model hub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_cl.data import ObservationBatch
from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import BACKBONES, Backbone, Context, ContextShape, PolicyFeatures
from vla_cl.policies.efficientnet import EfficientNetLite0
from vla_cl.policies.encoders import InstructedKeypoints
from vla_cl.policies.images import check_cameras, views
from vla_cl.policies.instruction import build_instruction_encoder, resolve_instruction_encoder, with_instruction_encoder
from vla_cl.policies.layers import TransformerLayer, token, token_mlp
from vla_cl.policies.options import check_at_least, check_choice
from vla_cl.policies.soft_prompts import through_layers

KIND = "backbone 'pretrained_compact'"
FEATURE = "efficientnet_lite0"
"""Name of what `perceive` computes."""


@dataclass(frozen=True)
class PretrainedCompactOptions:
    """What is pretrained, and the sizes of what is not.

    Args:
        freeze_vision: Whether the image encoder keeps ImageNet's weights; its features can then be computed once.
        input_size: Height and width to which images are scaled for it.
        stride: Of its feature map, in scaled pixels: 8, 16 or 32.
        tokens: "keypoints" (one token a camera: where things are that the instruction asks for) or "grid" (one token a
            place of the feature map).
        keypoints: Of each camera.
        channels: To which features are mapped before keypoints are looked for.
        width: D, of a token.
        layers: Of the transformer trunk.
        heads: Of its attention.
        instruction_encoder: "minilm" (frozen, pretrained), "learned", or "auto": the first where it is installed.
    """

    freeze_vision: bool = True
    input_size: int = 128
    stride: int = 16
    tokens: str = "keypoints"
    keypoints: int = 32
    channels: int = 64
    width: int = 128
    layers: int = 2
    heads: int = 4
    instruction_encoder: str = "auto"

    def __post_init__(self) -> None:
        check_choice(KIND, "tokens", self.tokens, ("keypoints", "grid"))
        bounds = {"input_size": 32, "keypoints": 1, "channels": 1, "width": 2, "layers": 0, "heads": 1}
        check_at_least(KIND, self, bounds)
        if self.stride not in (8, 16, 32):
            raise ConfigurationError(f"option stride of {KIND} must be 8, 16 or 32, got {self.stride}")
        if self.width % self.heads:
            raise ConfigurationError(f"width {self.width} of {KIND} must be a multiple of its {self.heads} heads")


@BACKBONES.decorator("pretrained_compact")
class PretrainedCompactBackbone(Backbone):
    """EfficientNet-Lite0's feature map of each camera, the instruction and proprioception of one moment as tokens.

    Frozen, `perceive` is the feature maps: (B, cameras, C, places, places), float16, 14 KiB a camera at the defaults.
    """

    Options = PretrainedCompactOptions

    def __init__(self, options: PretrainedCompactOptions, features: PolicyFeatures) -> None:
        super().__init__()
        check_cameras(KIND, features)
        self.options, self.features = options, features
        width, cameras = options.width, len(features.cameras)
        self.vision = EfficientNetLite0(options.stride)
        self.vision.requires_grad_(not options.freeze_vision)
        size = -(-options.input_size // options.stride)
        self.instruction = build_instruction_encoder(resolve_instruction_encoder(options.instruction_encoder))
        self.instruction_token = nn.Linear(self.instruction.embedding_dim, width)
        self.proprioception_token = token_mlp(features.agent_pos_dim, width)
        channels = self.vision.channels
        self.readers: nn.ModuleList = nn.ModuleList(
            KeypointReader(channels, options.channels, options.keypoints, size, width)
            if options.tokens == "keypoints"
            else GridReader(channels, size, width)
            for _ in range(cameras)
        )
        seen = cameras if options.tokens == "keypoints" else cameras * size**2
        self.shape = ContextShape(width, features.agent_pos_dim, tokens=2 + seen)
        self.kinds = token(2, width)
        self.layers = nn.ModuleList(TransformerLayer(width, options.heads) for _ in range(options.layers))
        self.prompt_width, self.prefix_layers = (width if options.layers else None), options.layers
        self.norm = nn.LayerNorm(width)

    @classmethod
    def resolve(cls, options: Any) -> Any:
        return with_instruction_encoder(options)

    @classmethod
    def build(cls, options: Any, features: PolicyFeatures, files: Path | None = None) -> PretrainedCompactBackbone:
        """A backbone with ImageNet's weights, or, given `files`, one to which saved weights are about to be given.

        Raises:
            ConfigurationError: The package with the weights is not installed.
            CheckpointError: Its file is damaged.
        """
        backbone = cls(options, features)
        if files is None:
            backbone.vision.load_pretrained()
        return backbone

    @property
    def frozen(self) -> bool:
        """Whether features depend on nothing that is trained; adapters may have been put into the image encoder."""
        return self.options.freeze_vision and not any(each.requires_grad for each in self.vision.parameters())

    def forward(self, observation: ObservationBatch) -> Context:
        """Instruction, proprioception, then the tokens of each camera."""
        agent_pos = observation.agent_pos
        if self.frozen:
            seen = (observation.features or self.perceive(observation))[FEATURE].to(agent_pos.dtype)
        else:
            seen = self._see(observation)
        instruction = self.instruction_token(self.instruction(observation.instruction, agent_pos.device))
        told = torch.stack([instruction, self.proprioception_token(agent_pos)], dim=1) + self.kinds
        read = [reader(view, instruction) for reader, view in zip(self.readers, seen.unbind(dim=1), strict=True)]
        hidden = torch.cat([told, *read], dim=1)
        hidden = through_layers(self.layers, hidden, self.soft_prompts)
        return Context(self.norm(hidden), agent_pos)

    @torch.no_grad()
    def perceive(self, observation: ObservationBatch) -> Mapping[str, Tensor]:
        """ "efficientnet_lite0": feature maps (B, cameras, C, places, places), float16, or bfloat16 where autocast
        computed them in it; empty unless frozen.
        """
        if not self.frozen:
            return {}
        seen = self._see(observation)
        return {FEATURE: seen.half() if seen.dtype == torch.float32 else seen}

    def fingerprint(self) -> str:
        """SHA-256 of the frozen weights and of what else decides over the features; "" unless frozen."""
        if not self.frozen:
            return ""
        told = (FEATURE, self.options.input_size, self.options.stride, self.features.cameras, self.features.image_size)
        digest = hashlib.sha256(repr(told).encode())
        for name, tensor in sorted(self.vision.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _see(self, observation: ObservationBatch) -> Tensor:
        """Feature maps (B, cameras, C, places, places)."""
        images = views(observation, self.features)
        pixels = torch.cat(images).permute(0, 3, 1, 2).float()  # channels last in memory, as they come
        size = self.options.input_size
        if size != self.features.image_size:
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        seen: Tensor = self.vision(pixels)
        return seen.view(len(images), -1, *seen.shape[1:]).transpose(0, 1)


class KeypointReader(nn.Module):
    """One token of a feature map: where its keypoints are.

    Args:
        channels: C, of the feature map.
        hidden: Channels among which keypoints are looked for.
        keypoints: K.
        size: Height and width of the map.
        width: Of the token and the condition.
    """

    def __init__(self, channels: int, hidden: int, keypoints: int, size: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.map = nn.Linear(channels, hidden)
        self.position = token(size * size, hidden)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.keypoints = InstructedKeypoints(hidden, keypoints, size, width)
        self.output = nn.Linear(2 * keypoints, width)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """(B, 1, width) from features (B, C, size, size) and conditions (B, width)."""
        places = F.relu(self.map(self.norm(features.flatten(2).transpose(1, 2))) + self.position)
        mapped = places.transpose(1, 2).reshape(len(features), -1, *features.shape[2:])
        output: Tensor = self.output(self.keypoints(mapped + F.relu(self.mix(mapped)), condition))
        return output[:, None]


class GridReader(nn.Module):
    """One token a place of a feature map (B, C, size, size)."""

    def __init__(self, channels: int, size: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.output = nn.Linear(channels, width)
        self.position = token(size * size, width)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """(B, size * size, width), row by row; without the condition."""
        tokens: Tensor = self.output(self.norm(features.flatten(2).transpose(1, 2))) + self.position
        return tokens
