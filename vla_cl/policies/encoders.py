"""Image encoders: raw uint8 images of each camera to a few tokens, conditioned on the instruction."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_cl.policies.layers import token, zeroed


def as_floats(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in [-1, 1], channels last in memory."""
    return images.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0


class FeatureModulation(nn.Module):
    """FiLM (Perez et al., arXiv 1709.07871): the condition scales and shifts each channel. Starts as the identity."""

    def __init__(self, condition_dim: int, channels: int) -> None:
        super().__init__()
        self.project = zeroed(nn.Linear(condition_dim, 2 * channels))

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.project(condition)[:, :, None, None].chunk(2, dim=1)
        modulated: Tensor = features * (1 + scale) + shift
        return modulated


INITIAL_SHARPNESS = 3.0
"""Standard deviation of a keypoint's initial logits. Around 0 every keypoint starts at the image's centre, wherever
things are, and hundreds of steps pass before one moves."""


class SpatialSoftmax(nn.Module):
    """Where things are: each of K maps is a distribution over the image, of which the mean position is returned.

    Levine et al., "End-to-end training of deep visuomotor policies", arXiv 1504.00702.

    Args:
        channels: Of the feature map.
        keypoints: K.
        height: Of the feature map.
        width: Of the feature map.
    """

    grid: Tensor

    def __init__(self, channels: int, keypoints: int, height: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.maps = nn.Linear(channels, keypoints, bias=False)
        nn.init.normal_(self.maps.weight, std=INITIAL_SHARPNESS / math.sqrt(channels))
        rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Mean rows and columns (B, 2K) in [-1, 1] of features (B, C, H, W)."""
        logits = self.maps(self.norm(features.permute(0, 2, 3, 1).flatten(1, 2))).float()  # (B, H * W, K)
        attention = logits.softmax(dim=1)
        with torch.autocast(features.device.type, enabled=False):
            return torch.einsum("bpk,px->bkx", attention, self.grid).flatten(1)


class CameraStream(nn.Module):
    """One camera's convolutions: a stem of stride 4, residual 3x3 blocks with FiLM, keypoints.

    Args:
        channels: Width of the feature map.
        blocks: Residual blocks.
        keypoints: K.
        image_size: Height and width of the images, a multiple of 4.
        condition_dim: Width of the condition.
    """

    def __init__(self, channels: int, blocks: int, keypoints: int, image_size: int, condition_dim: int) -> None:
        super().__init__()
        size = image_size // 4
        self.stem = nn.Conv2d(3, channels, kernel_size=4, stride=4)
        self.position = nn.Parameter(torch.randn(1, channels, size, size) * 0.02)
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks))
        self.modulations = nn.ModuleList(FeatureModulation(condition_dim, channels) for _ in range(blocks))
        self.keypoints = SpatialSoftmax(channels, keypoints, size, size)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        """Keypoints (B, 2K) of images (B, H, W, 3) uint8."""
        hidden = F.relu(self.stem(as_floats(images)) + self.position)
        for convolution, modulation in zip(self.convolutions, self.modulations, strict=True):
            hidden = hidden + F.relu(modulation(convolution(hidden), condition))
        positions: Tensor = self.keypoints(hidden)
        return positions


class ConvolutionalEncoder(nn.Module):
    """One token a camera: where its learned keypoints are. Each camera has its own weights."""

    def __init__(
        self,
        *,
        channels: int,
        blocks: int,
        keypoints: int,
        cameras: int,
        image_size: int,
        condition_dim: int,
        width: int,
    ) -> None:
        super().__init__()
        self.streams = nn.ModuleList(
            CameraStream(channels, blocks, keypoints, image_size, condition_dim) for _ in range(cameras)
        )
        self.projections = nn.ModuleList(nn.Linear(2 * keypoints, width) for _ in range(cameras))

    def forward(self, images: Sequence[Tensor], condition: Tensor) -> Tensor:
        """Tokens (B, cameras, width) of each camera's images (B, H, W, 3) uint8 and a condition (B, condition_dim)."""
        tokens = [
            projection(stream(view, condition))
            for view, stream, projection in zip(images, self.streams, self.projections, strict=True)
        ]
        return torch.stack(tokens, dim=1)


class PatchEncoder(nn.Module):
    """One token a patch, as in a ViT (arXiv 2010.11929): the trunk behind it attends over patches and instruction."""

    def __init__(self, *, patch: int, cameras: int, image_size: int, width: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Conv2d(3, width, patch, stride=patch) for _ in range(cameras))
        self.positions = nn.ParameterList(token((image_size // patch) ** 2, width) for _ in range(cameras))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Sequence[Tensor], condition: Tensor) -> Tensor:
        """Tokens (B, cameras * patches, width) of each camera's images (B, H, W, 3) uint8; without the condition."""
        tokens = [
            embedding(as_floats(view)).flatten(2).transpose(1, 2) + position
            for view, embedding, position in zip(images, self.embeddings, self.positions, strict=True)
        ]
        return torch.cat(tokens, dim=1)
