"""Random shifts against a pixel-by-pixel implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vla_cl.policies.augmentation import random_shift


@pytest.mark.parametrize("pixels", [1, 3])
def test_each_image_is_shifted_whole_and_its_border_repeated(pixels: int) -> None:
    images = torch.randint(0, 256, (40, 9, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shifted = random_shift(images, pixels, torch.Generator().manual_seed(1))
    assert shifted.dtype == torch.uint8 and shifted.shape == images.shape
    found = set()
    for image, moved in zip(images.numpy(), shifted.numpy(), strict=True):
        padded = np.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
        offsets = [
            (row, column)
            for row in range(2 * pixels + 1)
            for column in range(2 * pixels + 1)
            if np.array_equal(padded[row : row + 9, column : column + 7], moved)
        ]
        assert len(offsets) == 1
        found |= set(offsets)
    assert len(found) > 5


def test_shifts_are_a_function_of_the_generator() -> None:
    images = torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8)
    first, again, other = (random_shift(images, 4, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
