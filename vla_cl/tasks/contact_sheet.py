"""A picture of a suite: every task's first frame, and the frame in which its expert succeeded."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import ManipulationEnv, ObservationOptions, RenderingOptions
from vla_cl.errors import ConfigurationError
from vla_cl.files import atomic_path
from vla_cl.seeding import numpy_generator
from vla_cl.tasks.expert import make_expert
from vla_cl.tasks.task import Task

if TYPE_CHECKING:
    from PIL.Image import Image

MARGIN = 8
GAP = 2
LINE_HEIGHT = 15
CHARACTER_WIDTH = 7
ATTEMPTS = 5
PAPER = (255, 255, 255)
EMPTY = (232, 232, 232)
INK = (32, 32, 32)
FAINT = (110, 110, 110)


def contact_sheet(
    tasks: Sequence[Task],
    path: Path,
    observation: ObservationOptions = ObservationOptions(image_size=192),
    rendering: RenderingOptions = RenderingOptions(),
    *,
    columns: int | None = None,
) -> Path:
    """Draw one labelled panel a task, in a grid, into a PNG file.

    A panel shows the first camera's view of an initial state of the selection split and, to its right, of the state
    in which the task's expert succeeded; the second place stays empty for a task without an expert.

    Args:
        tasks: What to draw, in this order.
        path: The file to write.
        observation: The first of its cameras is drawn, at its image size.
        rendering: How it is drawn.
        columns: Panels side by side; by default the sheet becomes about as wide as high.

    Returns:
        `path`.

    Raises:
        ConfigurationError: There is no task to draw, or `columns` is not positive.
        RenderingError: Nothing here can draw images.
    """
    from PIL import Image

    if not tasks:
        raise ConfigurationError("a contact sheet needs at least one task")
    if columns is None:
        columns = max(1, round((len(tasks) / 2) ** 0.5))
    if columns < 1:
        raise ConfigurationError(f"columns must be at least 1, got {columns}")
    characters = (2 * observation.image_size + GAP) // CHARACTER_WIDTH
    labels = [textwrap.wrap(task.instruction, characters) for task in tasks]
    header = LINE_HEIGHT * (1 + max(len(label) for label in labels))
    panels = [_panel(task, label, header, observation, rendering) for task, label in zip(tasks, labels, strict=True)]
    columns = min(columns, len(panels))
    width, height = panels[0].size
    rows = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, rows * (height + MARGIN) + MARGIN), PAPER)
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        sheet.paste(panel, (MARGIN + column * (width + MARGIN), MARGIN + row * (height + MARGIN)))
    path = Path(path)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
    return path


def _panel(
    task: Task, label: list[str], header: int, observation: ObservationOptions, rendering: RenderingOptions
) -> Image:
    """Two frames side by side; above them, in `header` pixels, the task's name and the lines of `label`."""
    from PIL import Image, ImageDraw

    first, last, caption = _frames(task, observation, rendering)
    size = first.shape[0]
    width = 2 * size + GAP
    panel = Image.new("RGB", (width, header + size), PAPER)
    draw = ImageDraw.Draw(panel)
    draw.text((0, 0), task.name, fill=INK)
    draw.text((width, 0), caption, fill=FAINT, anchor="ra")
    for line, text in enumerate(label, start=1):
        draw.text((0, line * LINE_HEIGHT), text, fill=FAINT)
    panel.paste(Image.fromarray(first), (0, header))
    if last is None:
        draw.rectangle((size + GAP, header, width - 1, header + size - 1), fill=EMPTY)
    else:
        panel.paste(Image.fromarray(last), (size + GAP, header))
    return panel


def _frames(
    task: Task, observation: ObservationOptions, rendering: RenderingOptions
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, str]:
    """The first frame, the frame of success if there is one, and a caption that says which."""
    with closing(task.environment(observation, rendering, render_mode="rgb_array")) as env:
        for seed in task.seeds.selection[:ATTEMPTS]:
            env.restart(seed=seed)
            first = _render(env)
            if not task.expert:
                return first, None, "no expert"
            if _demonstrate(env, task, seed):
                return first, _render(env), f"expert: {env.elapsed_steps} steps"
        return first, None, f"expert failed {ATTEMPTS} times"


def _demonstrate(env: ManipulationEnv, task: Task, seed: int) -> bool:
    """Let the expert act from the present state until it succeeds or the horizon; return whether it succeeded."""
    expert = make_expert(task)
    expert.reset(env, numpy_generator("contact sheet", task.name, seed))
    while True:
        _, success, truncated, _ = env.advance(expert.act(env))
        if success or truncated:
            return success


def _render(env: ManipulationEnv) -> NDArray[np.uint8]:
    """The first camera's view (H, W, 3)."""
    frame = env.render()
    assert frame is not None  # the environment was built with render_mode="rgb_array"
    return frame
