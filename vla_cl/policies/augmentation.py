"""Random shifts of images, in plain torch, driven by a generator."""

from __future__ import annotations

import torch
from torch import Tensor


def random_shift(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Shift each image by its own random offset; what moves in from outside repeats the border.

    Kostrikov et al., "Image Augmentation Is All You Need" (DrQ), arXiv 2004.13649.

    Args:
        images: (B, H, W, C), any dtype.
        pixels: Largest shift along either axis; offsets are uniform in [-pixels, pixels].
        generator: A CPU generator.

    Returns:
        (B, H, W, C), same dtype and device.
    """
    batch, height, width, _ = images.shape
    offsets = torch.randint(0, 2 * pixels + 1, (2, batch), generator=generator).to(images.device)
    rows = torch.arange(-pixels, height + pixels, device=images.device).clamp(0, height - 1)
    columns = torch.arange(-pixels, width + pixels, device=images.device).clamp(0, width - 1)
    padded = images[:, rows][:, :, columns]
    windows = padded.unfold(1, height, 1).unfold(2, width, 1)  # (B, 2p+1, 2p+1, C, H, W), a view
    shifted = windows[torch.arange(batch, device=images.device), offsets[0], offsets[1]]
    return shifted.permute(0, 2, 3, 1)
