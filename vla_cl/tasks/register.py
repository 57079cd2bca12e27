"""`@register_task`: one decorator makes an environment class a task, with its backend, its expert and its suites."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from vla_cl.envs import BACKENDS, ManipulationEnv
from vla_cl.errors import ConfigurationError
from vla_cl.tasks.expert import EXPERTS, Expert
from vla_cl.tasks.suite import SUITES, TaskSuite
from vla_cl.tasks.task import SeedSplit, Task

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=type[ManipulationEnv])

_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

_grown: dict[str, dict[str, Task]] = {}
"""Tasks by name of the suites that grow task by task, in the order in which they were registered."""

_descriptions: dict[str, str] = {}


def register_task(
    name: str,
    *,
    instruction: str,
    horizon: int,
    suite: str = "",
    paraphrases: Sequence[str] = (),
    held_out_paraphrases: Sequence[str] = (),
    expert: Callable[[], Expert] | str = "",
    seeds: SeedSplit = SeedSplit(),
    backend: str = "",
    **arguments: Any,
) -> Callable[[C], C]:
    """Decorator for an environment class: registers a task that is simulated by it, and a suite that holds the task.

    The task is then "NAME" in a suite of one (`vla-cl run suite=NAME`), and "SUITE/NAME" where `suite` is given. One
    class may have several of these decorators with different arguments; Python applies the lowest first, and tasks
    follow one another in a suite as they were registered.

    Args:
        name: Of the task: letters, digits, "-", "_" and ".".
        instruction: What the robot is told.
        horizon: Control steps until an episode is truncated.
        suite: Also a member of this suite, which is made when the first task names it.
        paraphrases: Other ways to say it, free to be trained on.
        held_out_paraphrases: Other ways to say it, never trained on.
        expert: A class (or function) without arguments that makes an expert, or the name of a registered one.
        seeds: Initial states, split in three.
        backend: Name under which the class is registered; "PushingEnv" is "pushing" by default.
        arguments: What the class gets when it is built, e.g. `direction=-1`.

    Raises:
        ConfigurationError: A name is taken by something else.
    """

    def register(environment: C) -> C:
        home = suite or name
        expert_name = expert if isinstance(expert, str) else f"{home}/{name}"
        task = Task(
            name=name,
            instruction=instruction,
            horizon=horizon,
            backend=backend or _words(environment.__name__.removesuffix("Env")),
            arguments=arguments,
            paraphrases=tuple(paraphrases),
            held_out_paraphrases=tuple(held_out_paraphrases),
            expert=expert_name,
            seeds=seeds,
        )
        BACKENDS.register(task.backend, environment)
        if not isinstance(expert, str):
            EXPERTS.register(expert_name, expert)
        add_task(task, suite)
        return environment

    return register


def add_task(task: Task, suite: str = "", description: str = "") -> None:
    """Register a task as a suite of one, and as the next member of `suite`, where one is named.

    A member of a suite whose own name is taken already by another suite is no suite of one; "suite/task" names it.

    Args:
        task: The task.
        suite: Name of the suite that grows by it.
        description: One line on that suite; the first that is given counts.

    Raises:
        ConfigurationError: A suite that does not grow this way has that name, or it holds another task of that name.
    """
    alone_taken = SUITES.is_taken(task.name) and _grown.get(task.name, {}).get(task.name) != task
    for name in dict.fromkeys((suite or task.name, task.name)):
        if name != (suite or task.name) and alone_taken:
            logger.debug("%s/%s is no suite of its own, as that name is taken", suite, name)
            continue
        if name not in _grown:
            SUITES.register(name, partial(_grown_suite, name))
            _grown[name] = {}
        known = _grown[name].setdefault(task.name, task)
        if known != task:
            raise ConfigurationError(f"suite {name!r} already holds another task {task.name!r}; choose another name")
    if suite and description:
        _descriptions.setdefault(suite, description)


def _grown_suite(name: str) -> TaskSuite:
    tasks = tuple(_grown[name].values())
    told = tasks[0].instruction if len(tasks) == 1 else ", ".join(_grown[name])
    description = _descriptions.get(name, told)
    return TaskSuite(name=name, tasks=tasks, description=description)


def _words(name: str) -> str:
    """The words of a class name: "PushingPuck" is "pushing-puck"."""
    return _WORD.sub("-", name).lower()
