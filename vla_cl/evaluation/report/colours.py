"""The colours that every table, chart and picture of a run shares.

Success rates use viridis, which is perceptually uniform and keeps its order under every kind of colour blindness. Runs
use the palette of Okabe and Ito (2008), and differ in marker and dash as well, so that no meaning hangs on hue alone.
"""

from __future__ import annotations

import math

VIRIDIS = (
    "#440154", "#48186a", "#472d7b", "#424086", "#3b528b", "#33638d", "#2c728e", "#26828e", "#21918c",
    "#1fa088", "#28ae80", "#3fbc73", "#5ec962", "#84d44b", "#addc30", "#d8e219", "#fde725",
)  # fmt: skip
"""Evenly spaced samples of viridis, from rate 0 to rate 1."""

RUN_COLOURS_LIGHT = ("#0072b2", "#c14f00", "#00805d", "#a8487f", "#8a6a00", "#4a5568")
"""One colour a run on a light page; runs beyond the last start over. At least 4.5 : 1 on white."""

RUN_COLOURS_DARK = ("#5db7ee", "#f08c4a", "#3fc79c", "#e39bc4", "#e0bd4a", "#a9b4c2")
"""The same on a dark page."""

INK, PAPER = "#000000", "#ffffff"


def rate_colour(rate: float) -> str:
    """The colour "#rrggbb" of a success rate in [0, 1], linear between the samples of `VIRIDIS`.

    Raises:
        ValueError: The rate is not a number in [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"a success rate lies in [0, 1], got {rate}")
    position = rate * (len(VIRIDIS) - 1)
    index = min(int(position), len(VIRIDIS) - 2)
    weight = position - index
    lower, upper = _channels(VIRIDIS[index]), _channels(VIRIDIS[index + 1])
    mixed = (round(a + weight * (b - a)) for a, b in zip(lower, upper, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def text_colour(background: str) -> str:
    """Ink or paper, whichever stands out more from `background` ("#rrggbb"); the contrast is 4.5 : 1 or better."""
    return max(INK, PAPER, key=lambda text: contrast(text, background))


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (Web Content Accessibility Guidelines 2.2, relative luminance)."""
    darker, lighter = sorted((_luminance(first), _luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _luminance(colour: str) -> float:
    linear = [
        channel / 12.92 if channel <= 0.04045 else math.pow((channel + 0.055) / 1.055, 2.4)
        for channel in (value / 255 for value in _channels(colour))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
