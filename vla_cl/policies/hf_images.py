"""Camera images as a Hugging Face vision tower takes them, in plain torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_cl.errors import ConfigurationError
from vla_cl.files import write_json

_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class ImageFormat:
    """What a vision tower was trained on.

    Args:
        height: Of its images in pixels.
        width: Of its images in pixels.
        mean: Of each colour, of values in [0, 1].
        std: Of each colour.
    """

    height: int
    width: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @staticmethod
    def read(config: Any, folder: Path | None = None) -> ImageFormat:
        """That of a model's configuration, and of its folder's image processor where it has one.

        Raises:
            ConfigurationError: The configuration names no image size, or the processor's file is damaged.
        """
        size = getattr(getattr(config, "vision_config", None), "image_size", None)
        height, width = size if isinstance(size, list | tuple) else (size, size)
        if not isinstance(height, int) or not isinstance(width, int):
            raise ConfigurationError(
                f"model type {config.model_type!r} has no fixed image size, so backbone 'hf_vlm' cannot feed it; "
                "give SmolVLM2, Idefics3, PaliGemma, LLaVA or InternVL"
            )
        for file in _FILES if folder else ():
            path = Path(folder or "") / file
            if path.is_file():
                mean, std = _normalisation(path)
                return ImageFormat(height, width, mean, std)
        return ImageFormat(height, width)

    def save(self, folder: Path) -> None:
        """Write what `read` needs beside the configuration."""
        content = {"do_normalize": True, "image_mean": list(self.mean), "image_std": list(self.std)}
        write_json(folder / _FILES[0], content)

    def pixels(self, views: Sequence[Tensor]) -> Tensor:
        """Images (B * cameras, 3, height, width), float32, a row's cameras one after the other, from each camera's
        (B, H, W, 3) uint8: resized bilinearly with antialiasing and normalised.
        """
        images = torch.stack(list(views), dim=1).flatten(0, 1).permute(0, 3, 1, 2).float()
        if images.shape[-2:] != (self.height, self.width):
            images = F.interpolate(images, (self.height, self.width), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(each, device=images.device).view(3, 1, 1) for each in (self.mean, self.std))
        return ((images / 255 - mean) / std).contiguous()


def _normalisation(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content = content.get("image_processor", content)
        if not content.get("do_normalize", True):
            return (0.0,) * 3, (1.0,) * 3
        mean = tuple(float(value) for value in content.get("image_mean", (0.5,) * 3))
        std = tuple(float(value) for value in content.get("image_std", (0.5,) * 3))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"image_mean {mean}, image_std {std}")
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise ConfigurationError(f"{path} is damaged ({error}); download it again") from error
    return mean, std


def image_tokens(model: Any, pixels: Tensor) -> Tensor:
    """Embeddings (n, T, D) that a model's language model takes, of n images (n, 3, H, W).

    SmolVLM and Idefics3 take (batch, images, 3, H, W) and leave out images that are all zero, which are padding to
    them; here every image counts, so zeros become the next best number.
    """
    pixels = pixels.to(next(model.parameters()).dtype)
    if model.config.model_type in ("smolvlm", "idefics3"):
        pixels = pixels.masked_fill(pixels == 0, 1e-30)[:, None]
    found = model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
    return torch.stack(list(found)) if isinstance(found, list | tuple) else found


def count_image_tokens(model: Any, image_format: ImageFormat) -> int:
    """T, found by encoding one black image.

    Raises:
        ConfigurationError: The model does not turn plain pixels into embeddings of its language model.
    """
    device = next(model.parameters()).device
    black = torch.zeros(1, 8, 8, 3, dtype=torch.uint8, device=device)
    try:
        with torch.no_grad():
            tokens = image_tokens(model, image_format.pixels([black]))
        width = model.config.get_text_config().hidden_size
        if tokens.ndim != 3 or len(tokens) != 1 or tokens.shape[-1] != width:
            raise ValueError(f"image features of shape {tuple(tokens.shape)}")
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError, KeyError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigurationError(
            f"model type {model.config.model_type!r} makes no tokens of plain pixels ({line}); "
            "give SmolVLM2, Idefics3, PaliGemma, LLaVA or InternVL"
        ) from error
    return int(tokens.shape[1])
