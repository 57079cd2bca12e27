"""Labelled frames in a grid: what contact sheets are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vla_cl.errors import ConfigurationError
from vla_cl.files import atomic_path

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

MARGIN = 8
GAP = 2
LINE_HEIGHT = 15
CHARACTER_WIDTH = 7
PAPER = (255, 255, 255)
EMPTY = (232, 232, 232)
INK = (32, 32, 32)
FAINT = (110, 110, 110)
COLOURS = 256
"""Of a sheet: none is off by more than a few of 255, in a third of the space."""


def labelled_panel(
    title: str,
    caption: str,
    lines: Sequence[str],
    frames: Sequence[Sequence[NDArray[np.uint8] | None]],
    *,
    header_lines: int | None = None,
) -> Image:
    """Frames in rows, with text above.

    Args:
        title: On the left of the first line, shortened where the caption needs the room.
        caption: On the right of the first line.
        lines: What stands below the title, one line each.
        frames: Rows of images (H, W, 3), all of one size; a place with None stays empty. The first is an image.
        header_lines: Lines of text to leave room for; None is as many as there are.
    """
    from PIL import Image, ImageDraw

    assert frames[0][0] is not None
    height, width = frames[0][0].shape[:2]
    columns = max(map(len, frames))
    header = LINE_HEIGHT * (1 + len(lines) if header_lines is None else header_lines)
    panel_width = columns * (width + GAP) - GAP
    panel = Image.new("RGB", (panel_width, header + len(frames) * (height + GAP) - GAP), PAPER)
    draw = ImageDraw.Draw(panel)
    draw.text((0, 0), _shortened(draw, title, panel_width - draw.textlength(caption) - 2 * MARGIN), fill=INK)
    draw.text((panel_width, 0), caption, fill=FAINT, anchor="ra")
    for line, text in enumerate(lines, start=1):
        draw.text((0, line * LINE_HEIGHT), text, fill=FAINT)
    for row, images in enumerate(frames):
        for column, image in enumerate(images):
            left, top = column * (width + GAP), header + row * (height + GAP)
            if image is None:
                draw.rectangle((left, top, left + width - 1, top + height - 1), fill=EMPTY)
            else:
                panel.paste(Image.fromarray(image), (left, top))
    return panel


def _shortened(draw: ImageDraw, text: str, width: float) -> str:
    """The text, or as much of its beginning as fits into a width in pixels."""
    if draw.textlength(text) <= width:
        return text
    end = len(text)
    while end and draw.textlength(f"{text[:end]}...") > width:
        end -= 1
    return f"{text[:end]}..."


def write_grid(
    panels: Sequence[Image], path: Path, *, columns: int | None = None, colours: int | None = COLOURS
) -> Path:
    """Write panels side by side into a PNG file, row by row; each place is as large as the largest panel.

    Args:
        panels: At least one.
        path: The file to write.
        columns: Panels side by side; by default the sheet becomes about as wide as high.
        colours: How many the picture may have, up to 256, so that it is small; None keeps every pixel as it is.

    Returns:
        `path`.

    Raises:
        ConfigurationError: There is no panel, or `columns` is not positive.
    """
    from PIL import Image

    if not panels:
        raise ConfigurationError("a contact sheet needs at least one panel")
    width, height = (max(panel.size[axis] for panel in panels) for axis in (0, 1))
    if columns is None:
        columns = max(1, round((len(panels) * height / width) ** 0.5))
    if columns < 1:
        raise ConfigurationError(f"columns must be at least 1, got {columns}")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, rows * (height + MARGIN) + MARGIN), PAPER)
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        sheet.paste(panel, (MARGIN + column * (width + MARGIN), MARGIN + row * (height + MARGIN)))
    path = Path(path)
    with atomic_path(path) as temporary:
        if colours is not None:
            sheet = sheet.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        sheet.save(temporary, format="PNG", optimize=True)
    return path
