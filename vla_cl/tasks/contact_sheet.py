"""A picture of a suite: every task's first frame, and the frame in which its expert succeeded."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import ManipulationEnv, ObservationOptions, RenderingOptions
from vla_cl.errors import ConfigurationError
from vla_cl.seeding import numpy_generator
from vla_cl.tasks.expert import make_expert
from vla_cl.tasks.panels import CHARACTER_WIDTH, GAP, labelled_panel, write_grid
from vla_cl.tasks.task import Task

ATTEMPTS = 5


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
    if not tasks:
        raise ConfigurationError("a contact sheet needs at least one task")
    if columns is None:
        columns = max(1, round((len(tasks) / 2) ** 0.5))
    if columns < 1:
        raise ConfigurationError(f"columns must be at least 1, got {columns}")
    characters = (2 * observation.image_size + GAP) // CHARACTER_WIDTH
    labels = [textwrap.wrap(task.instruction, characters) for task in tasks]
    header_lines = 1 + max(len(label) for label in labels)
    panels = []
    for task, label in zip(tasks, labels, strict=True):
        first, last, caption = _frames(task, observation, rendering)
        panels.append(labelled_panel(task.name, caption, label, [[first, last]], header_lines=header_lines))
    return write_grid(panels, path, columns=columns)


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
