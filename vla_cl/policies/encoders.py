"""Image encoders: raw uint8 images of each camera to a few tokens, conditioned on the instruction."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_cl.policies.layers import token, zeroed


class PatchStem(nn.Conv2d):
    """Raw images (B, H, W, 3) uint8 to a map (B, channels, H / patch, W / patch), one patch a place.

    The scaling of bytes to [-1, 1] is folded into the weights, which saves two passes over the images.
    """

    bias: Tensor

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__(3, channels, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        kind = images.device.type
        # every byte is exact in bfloat16
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.weight.dtype
        pixels = images.permute(0, 3, 1, 2).to(dtype)  # channels last in memory, as they come
        return F.conv2d(pixels, self.weight / 127.5, self.bias - self.weight.sum(dim=(1, 2, 3)), self.stride)


INITIAL_SHARPNESS = 3.0
"""Standard deviation of a keypoint's initial logits. Around 0 every keypoint starts at the image's centre, wherever
things are, and hundreds of steps pass before one moves."""


class InstructedKeypoints(nn.Module):
    """Where things are that the instruction makes interesting.

    Each of K queries, shifted by the condition, attends over the places of a feature map, and the mean position of its
    attention is returned: the spatial softmax of Levine et al. (arXiv 1504.00702), with what it looks for depending on
    what is asked.

    Args:
        channels: C, of the feature map.
        keypoints: K.
        size: Height and width of the feature map.
        condition_dim: Width of the condition.
    """

    grid: Tensor

    def __init__(self, channels: int, keypoints: int, size: int, condition_dim: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(keypoints, channels) * INITIAL_SHARPNESS / math.sqrt(channels))
        self.shift = zeroed(nn.Linear(condition_dim, keypoints * channels))
        steps = torch.linspace(-1, 1, size)
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1).flatten(0, 1)
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Mean rows and columns (B, 2K) in [-1, 1] of features (B, C, H, W), given conditions (B, condition_dim)."""
        places = features.permute(0, 2, 3, 1).flatten(1, 2)
        queries = self.queries + self.shift(condition).view(-1, *self.queries.shape)
        with torch.autocast(features.device.type, enabled=False):
            places = F.layer_norm(places, (places.shape[-1],))
            logits = queries.to(places.dtype) @ places.transpose(1, 2)  # (B, K, H * W)
            positions: Tensor = logits.float().softmax(dim=-1) @ self.grid
        return positions.flatten(1)


class CameraStream(nn.Module):
    """One camera's convolutions: a stem of stride 4, residual 3x3 blocks, keypoints.

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
        self.stem = PatchStem(channels, patch=4)
        self.position = nn.Parameter(torch.randn(1, channels, size, size) * 0.02)
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks))
        self.keypoints = InstructedKeypoints(channels, keypoints, size, condition_dim)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        """Keypoints (B, 2K) of images (B, H, W, 3) uint8."""
        hidden = self.stem(images)
        hidden = F.relu(hidden + self.position.to(hidden.dtype))
        for convolution in self.convolutions:
            hidden = hidden + F.relu(convolution(hidden))
        positions: Tensor = self.keypoints(hidden, condition)
        return positions


class ConvolutionalEncoder(nn.Module):
    """One token a camera: where its keypoints are. Each camera has its own weights."""

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
        self.embeddings = nn.ModuleList(PatchStem(width, patch) for _ in range(cameras))
        self.positions = nn.ParameterList(token((image_size // patch) ** 2, width) for _ in range(cameras))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Sequence[Tensor], condition: Tensor) -> Tensor:
        """Tokens (B, cameras * patches, width) of each camera's images (B, H, W, 3) uint8; without the condition."""
        tokens = [
            embedding(view).flatten(2).transpose(1, 2) + position
            for view, embedding, position in zip(images, self.embeddings, self.positions, strict=True)
        ]
        return torch.cat(tokens, dim=1)
