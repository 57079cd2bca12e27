"""A picture of demonstrations: how some of them begin, go on and end, from each camera."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vla_cl.data.integrity import damage_reported
from vla_cl.data.opening import open_demonstrations
from vla_cl.data.schema import UNKNOWN_SEED, image_key
from vla_cl.data.source import Demonstrations
from vla_cl.errors import DataFileError
from vla_cl.tasks.panels import CHARACTER_WIDTH, GAP, labelled_panel, write_grid

if TYPE_CHECKING:
    from PIL.Image import Image

FRAMES = 3


def demonstration_sheet(paths: Sequence[Path], output: Path, *, demonstrations: int = 4) -> Path:
    """Draw some demonstrations of each file into a PNG file: first, middle and last frame, one row a camera.

    Args:
        paths: Demonstration files with images.
        output: The file to write.
        demonstrations: How many of each file, at equal distances from the first to the last.

    Returns:
        `output`.

    Raises:
        DataFileError: A file cannot be used, or stores no images.
        ConfigurationError: There is nothing to draw.
    """
    panels = []
    for path in paths:
        with open_demonstrations(path) as file:
            if not file.cameras:
                raise DataFileError(f"{path} stores no images; draw some with vla-cl data rerender")
            with damage_reported(file.path):
                panels += [_panel(file, index) for index in spread(len(file), demonstrations)]
    return write_grid(panels, output, colours=None)  # what is stored, pixel by pixel


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `count` indices, at equal distances from the first to the last."""
    return sorted({round(place) for place in np.linspace(0, count - 1, max(0, min(count, wanted)))})


def _panel(file: Demonstrations, index: int) -> Image:
    length = int(file.lengths[index])
    frames = []
    for camera in file.cameras:
        seen = file.episode(index, keys=(image_key(camera),)).observations[image_key(camera)]
        frames.append([seen[0], seen[length // 2], seen[length]])
    characters = (FRAMES * (file.image_size + GAP) - GAP) // CHARACTER_WIDTH
    seed = "" if file.seeds[index] == UNKNOWN_SEED else f", seed {file.seeds[index]}"
    lines = [
        *textwrap.wrap(f"{file.names[index]}{seed}, {length} steps", characters),
        *textwrap.wrap(file.instruction, characters),
    ]
    return labelled_panel(file.task, "", lines, frames)
