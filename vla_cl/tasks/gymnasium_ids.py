"""Gymnasium ids: `gymnasium.make("vla_cl/<suite>.<task>-v0")`.

Gymnasium's grammar of ids (`gymnasium.envs.registration.ENV_ID_RE`) is `[namespace/]name[-vN]`: a second slash is
rejected, and a colon would name a module to import. So suite and task are joined by a dot:
`vla_cl/mw5.window-close-v0`. Outside of Gymnasium, names keep their slash: `vla_cl.make("mw5/window-close")`.

`import vla_cl` registers the ids of the built-in suites and of those that installed packages declare as entry points.
Nothing is simulated or drawn by that: a registration is a name and a function to call. After registering a suite
yourself, call `register_gymnasium_ids()` again.

`gymnasium.make_vec(..., vectorization_mode="async")` forks its workers on Linux. A process that has drawn images before
cannot be forked, as its OpenGL threads do not follow; pass `vector_kwargs={"context": "spawn"}` there.

No id sets `max_episode_steps`, because the environment truncates itself at the task's horizon.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import gymnasium

from vla_cl.envs import ManipulationEnv, ObservationOptions, RenderingOptions
from vla_cl.errors import VlaClError
from vla_cl.tasks.suite import SUITES, find_task, get_suite

NAMESPACE = "vla_cl"
VERSION = 0
ENTRY_POINT = f"{__name__}:make"

logger = logging.getLogger(__name__)


def gymnasium_id(suite: str, task: str) -> str:
    """The Gymnasium id of a suite's task ("vla_cl/mw5.window-close-v0")."""
    return f"{NAMESPACE}/{suite}.{task}-v{VERSION}"


def make(
    task: str,
    *,
    cameras: Iterable[str] | None = None,
    image_size: int = 64,
    privileged: bool = False,
    rendering: RenderingOptions = RenderingOptions(),
    render_mode: str | None = None,
    **arguments: Any,
) -> ManipulationEnv:
    """Build the environment of a task. Every Gymnasium id of this package calls this.

    Example: `make("robosuite10/lift", robot="UR5e", stepper="robosuite", rebuild=True)`.

    Args:
        task: "suite/task", or a task's name alone.
        cameras: Names of the cameras to draw; `None` is the backend's default, `()` draws nothing.
        image_size: Height and width in pixels, 64 to 256.
        privileged: Whether observations hold `environment_state`.
        rendering: How images are drawn.
        render_mode: "rgb_array" to let `render()` return images, or `None`.
        arguments: Of the task's backend, in place of what the task says.

    Raises:
        UnknownNameError: No such suite or task; the message names the nearest.
        ConfigurationError: An argument cannot be used.
        RenderingError: Cameras were asked for and nothing here can draw them.
    """
    chosen = None if cameras is None else tuple(cameras)
    observation = ObservationOptions(cameras=chosen, image_size=image_size, privileged=privileged)
    found = find_task(task)
    found = replace(found, arguments={**found.arguments, **arguments})
    return found.environment(observation, rendering, render_mode=render_mode)


def register_gymnasium_ids() -> tuple[str, ...]:
    """Register an id for each task of each registered suite; ids that exist already stay as they are.

    A suite whose factory fails is left out with a warning, so that one broken plug-in does not take the rest along.

    Returns:
        All ids, suites in alphabetical order, tasks in their suite's default order.
    """
    identifiers = []
    for suite_name in SUITES:
        try:
            tasks = get_suite(suite_name).unique_tasks
        except VlaClError as error:
            logger.warning("suite %r gets no Gymnasium ids: %s", suite_name, error)
            continue
        for task in tasks:
            identifier = gymnasium_id(suite_name, task.name)
            identifiers.append(identifier)
            if identifier not in gymnasium.registry:
                gymnasium.register(identifier, ENTRY_POINT, kwargs={"task": f"{suite_name}/{task.name}"})
    return tuple(identifiers)
