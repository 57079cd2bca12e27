"""The `resnet_film` backbone: residual networks from scratch that the instruction modulates, as LIBERO's policies have.

LIBERO, arXiv 2306.03310, section 4.2 and appendix A; FiLM: Perez et al., arXiv 1709.07871; ResNet: He et al.,
arXiv 1512.03385.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_cl.data import ObservationBatch
from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import BACKBONES, Backbone, Context, ContextShape, PolicyFeatures
from vla_cl.policies.images import check_cameras, views
from vla_cl.policies.instruction import build_instruction_encoder, resolve_instruction_encoder, with_instruction_encoder
from vla_cl.policies.layers import token, token_mlp, zeroed
from vla_cl.policies.options import check_at_least, check_choice

KIND = "backbone 'resnet_film'"
GROUP = 16
"""Channels that are normalised together (Chi et al., Diffusion Policy, arXiv 2303.04137, section III-A)."""


@dataclass(frozen=True)
class ResNetFiLMOptions:
    """Sizes. The defaults are ResNet-18's; channels=16, blocks=1, stages=3 trains on a laptop's CPU.

    Args:
        channels: Of the first stage; each further stage has twice as many.
        blocks: Residual blocks of a stage.
        stages: The feature map's stride is 4 after the first, and doubles with each further one.
        shared: Whether one encoder serves all cameras, or each has its own.
        pooling: "spatial_softmax" (where things are) or "mean" (what there is).
        keypoints: Of each camera, for the spatial softmax.
        width: D, of a token.
        instruction_encoder: "minilm" (frozen, pretrained), "learned", or "auto": the first where it is installed.
    """

    channels: int = 64
    blocks: int = 2
    stages: int = 4
    shared: bool = False
    pooling: str = "spatial_softmax"
    keypoints: int = 32
    width: int = 128
    instruction_encoder: str = "auto"

    def __post_init__(self) -> None:
        check_choice(KIND, "pooling", self.pooling, ("spatial_softmax", "mean"))
        check_at_least(KIND, self, {"channels": 1, "blocks": 1, "stages": 1, "keypoints": 1, "width": 2})


@BACKBONES.decorator("resnet_film")
class ResNetFiLMBackbone(Backbone):
    """One token each: instruction, proprioception, and every camera's image as the instruction makes it seen.

    Tokens do not look at each other here: that is left to a head with `network: transformer`, as in BC-Transformer,
    or to the history's.
    """

    Options = ResNetFiLMOptions

    def __init__(self, options: ResNetFiLMOptions, features: PolicyFeatures) -> None:
        super().__init__()
        check_cameras(KIND, features)
        cameras, width = len(features.cameras), options.width
        if options.pooling == "spatial_softmax" and features.image_size <= (stride := 4 * 2 ** (options.stages - 1)):
            raise ConfigurationError(
                f"{KIND} has a feature map of one place, so no keypoints: image_size {features.image_size}, "
                f"stride {stride}; give larger images, fewer stages, or pooling=mean"
            )
        self.features = features
        self.shape = ContextShape(width, features.agent_pos_dim, tokens=2 + cameras)
        self.instruction = build_instruction_encoder(resolve_instruction_encoder(options.instruction_encoder))
        told = self.instruction.embedding_dim
        self.instruction_token = token_mlp(told, width)
        self.proprioception_token = token_mlp(features.agent_pos_dim, width)
        self.encoders = nn.ModuleList(ResNetEncoder(options, told) for _ in range(1 if options.shared else cameras))
        self.kinds = token(2 + cameras, width)
        self.norm = nn.LayerNorm(width)

    @classmethod
    def resolve(cls, options: Any) -> Any:
        return with_instruction_encoder(options)

    def forward(self, observation: ObservationBatch) -> Context:
        """Instruction, proprioception, then a token a camera."""
        agent_pos, images = observation.agent_pos, views(observation, self.features)
        instruction = self.instruction(observation.instruction, agent_pos.device)
        if len(self.encoders) < len(images):
            together = self.encoders[0](torch.cat(images), instruction.repeat(len(images), 1))
            seen = together.chunk(len(images))
        else:
            seen = [encoder(view, instruction) for encoder, view in zip(self.encoders, images, strict=True)]
        tokens = torch.stack([self.instruction_token(instruction), self.proprioception_token(agent_pos), *seen], dim=1)
        return Context(self.norm(tokens + self.kinds), agent_pos)


class FiLM(nn.Module):
    """Scales and shifts channels by what a condition says: (1 + gamma) x + beta, at first x.

    Args:
        condition_dim: Of the condition.
        channels: C.
    """

    def __init__(self, condition_dim: int, channels: int) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(condition_dim, 2 * channels))

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Features (B, C, H, W) under conditions (B, condition_dim)."""
        gamma, beta = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        modulated: Tensor = (1 + gamma) * features + beta
        return modulated


class FiLMBlock(nn.Module):
    """ResNet's basic block with group normalisation, modulated after its second one."""

    def __init__(self, inputs: int, outputs: int, stride: int, condition_dim: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.first_norm = group_norm(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = group_norm(outputs)
        self.film = FiLM(condition_dim, outputs)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), group_norm(outputs))

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """(B, outputs, H / stride, W / stride) of features (B, inputs, H, W)."""
        hidden = F.relu(self.first_norm(self.first(features)))
        hidden = self.film(self.second_norm(self.second(hidden)), condition)
        return F.relu(self.skip(features) + hidden)


class ResNetEncoder(nn.Module):
    """One camera's images to one token.

    Args:
        options: Of the backbone.
        condition_dim: Width of an instruction's embedding.
    """

    def __init__(self, options: ResNetFiLMOptions, condition_dim: int) -> None:
        super().__init__()
        channels = options.channels
        self.stem = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.stem_norm = group_norm(channels)
        blocks = []
        for stage in range(options.stages):
            outputs = options.channels * 2**stage
            for block in range(options.blocks):
                stride = 2 if stage and not block else 1
                blocks.append(FiLMBlock(channels, outputs, stride, condition_dim))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.keypoints: SpatialSoftmax | None = None
        if options.pooling == "spatial_softmax":
            self.keypoints = SpatialSoftmax(channels, options.keypoints)
        self.output = nn.Linear(2 * options.keypoints if self.keypoints is not None else channels, options.width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        """Tokens (B, width) of images (B, H, W, 3) uint8 and conditions (B, condition_dim)."""
        pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1  # channels last in memory, as they come
        hidden = F.max_pool2d(F.relu(self.stem_norm(self.stem(pixels))), 3, stride=2, padding=1)
        for block in self.blocks:
            hidden = block(hidden, condition)
        pooled = hidden.mean(dim=(2, 3)) if self.keypoints is None else self.keypoints(hidden)
        output: Tensor = self.output(pooled)
        return output


class SpatialSoftmax(nn.Module):
    """Where each of K learned features is: the mean position under a softmax over places (Levine et al., arXiv
    1504.00702, section 5.1).

    Args:
        channels: C, of the feature map.
        keypoints: K.
    """

    def __init__(self, channels: int, keypoints: int) -> None:
        super().__init__()
        self.maps = nn.Conv2d(channels, keypoints, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Rows, then columns (B, 2K) in [-1, 1], float32, of features (B, C, H, W)."""
        height, width = features.shape[2:]
        with torch.autocast(features.device.type, enabled=False):
            maps = F.conv2d(features.float(), self.maps.weight, self.maps.bias)
            attention = maps.flatten(2).softmax(dim=-1).view(*maps.shape)
            rows, columns = (torch.linspace(-1, 1, size, device=maps.device) for size in (height, width))
            return torch.cat([attention.sum(dim=3) @ rows, attention.sum(dim=2) @ columns], dim=1)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with about `GROUP` channels a group."""
    return nn.GroupNorm(math.gcd(channels, max(1, channels // GROUP)), channels)
