"""An ordered tuple of tasks, its named orders, and the registry of suites."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from vla_cl.errors import ConfigurationError, UnknownNameError, VlaClError
from vla_cl.registry import Registry
from vla_cl.seeding import numpy_generator
from vla_cl.tasks.task import Task

logger = logging.getLogger(__name__)

Ranges = Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
"""Lower and upper ends (D,) of "action", "agent_pos" and "environment_state"."""


@dataclass(frozen=True)
class TaskSuite:
    """Tasks that are learned one after another.

    A task may appear several times (CW20 is CW10 twice); names repeat then, stages do not.

    Args:
        name: Identifier ("cw10").
        tasks: The tasks in the suite's default order.
        description: One line on what the suite probes, with its source.
        orders: Other orders by name, each a permutation of the default order's task names.
        ranges: The workspace of all its tasks, from which policies normalise; empty when the suite declares none, and
            the first task's demonstrations decide. A constant of the robot and the table, so that no statistics of
            later tasks leak into earlier ones, and none are recomputed.
    """

    name: str
    tasks: tuple[Task, ...]
    description: str = ""
    orders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ranges: Ranges = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigurationError(f"suite {self.name!r} has no tasks")
        names = [task.name for task in self.tasks]
        for order, permutation in self.orders.items():
            if sorted(permutation) != sorted(names):
                raise ConfigurationError(f"order {order!r} of suite {self.name!r} is not a permutation of its tasks")

    def task(self, name: str) -> Task:
        """The task of that name.

        Raises:
            UnknownNameError: The suite holds no such task.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        known = {task.name for task in self.tasks}
        raise UnknownNameError("task", name, known, f"vla-cl tasks {self.name}")

    @property
    def unique_tasks(self) -> tuple[Task, ...]:
        """The tasks without repetitions, in order of first appearance."""
        return tuple({task.name: task for task in self.tasks}.values())

    def sequence(self, order: str | int = "default", length: int | None = None) -> tuple[Task, ...]:
        """The tasks in a named order, or in the random permutation that an integer seed names.

        Args:
            order: "default", a key of `orders`, or a seed.
            length: Keep only the first stages.
        """
        if isinstance(order, str) and order.lstrip("-").isdigit():
            order = int(order)
        if isinstance(order, int):
            permutation = numpy_generator("order", self.name, order).permutation(len(self.tasks))
            tasks = tuple(self.tasks[index] for index in permutation)
        elif order == "default":
            tasks = self.tasks
        elif order in self.orders:
            tasks = tuple(self.task(name) for name in self.orders[order])
        else:
            raise UnknownNameError(f"{self.name} order", order, ["default", *self.orders])
        if length is not None:
            if not 1 <= length <= len(tasks):
                raise ConfigurationError(f"length {length} is out of range for suite {self.name!r}: 1 to {len(tasks)}")
            tasks = tasks[:length]
        return tasks


SUITES: Registry[Callable[[], TaskSuite]] = Registry("suite", "vla_cl.tasks", "vla-cl suites")
"""Factories of suites by name: built when asked for, so that listing names costs nothing."""


def register_suite(name: str) -> Callable[[Callable[[], TaskSuite]], Callable[[], TaskSuite]]:
    """Decorator for a function without arguments that returns the suite `name`."""
    return SUITES.decorator(name)


def get_suite(name: str) -> TaskSuite:
    """Build a registered suite, or the sequence that "+" joins: "mw3+pushing", "mw5/window-close+pushing/push-left".

    A joined sequence holds whole suites and single tasks ("suite/task") in the order in which they are named.

    Raises:
        UnknownNameError: No such suite, or no such task in it.
        ConfigurationError: A plug-in's suite cannot be built.
    """
    if "+" in name or "/" in name:
        return _joined(name)
    factory = SUITES[name]
    try:
        suite = factory()
    except VlaClError:
        raise
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigurationError(f"suite {name!r} cannot be built: {told}") from error
    if suite.name != name:
        raise ConfigurationError(f"the suite registered as {name!r} calls itself {suite.name!r}; make them agree")
    return suite


def available_suites() -> list[TaskSuite]:
    """Every registered suite that can be built; the others are left out with a warning."""
    suites = []
    for name in SUITES:
        try:
            suites.append(get_suite(name))
        except VlaClError as error:
            logger.warning("suite %r is left out: %s", name, error)
    return suites


def _joined(name: str) -> TaskSuite:
    tasks: list[Task] = []
    suites = []
    for part in name.split("+"):
        suite_name, _, task_name = part.partition("/")
        suite = get_suite(suite_name)
        suites.append(suite)
        tasks += [suite.task(task_name)] if task_name else suite.tasks
    meant: dict[str, Task] = {}
    for task in tasks:
        if meant.setdefault(task.name, task) != task:
            raise ConfigurationError(f"{name!r} holds two different tasks called {task.name!r}; leave one of them out")
    return TaskSuite(
        name=name,
        tasks=tuple(tasks),
        description=f"joined from {', '.join(dict.fromkeys(suite.name for suite in suites))}",
        ranges=_covering([suite.ranges for suite in suites]),
    )


def _covering(ranges: Sequence[Ranges]) -> Ranges:
    """The smallest ranges that hold all of them; none, unless all suites declare them."""
    if not all(ranges):
        return {}
    vectors = [name for name in ranges[0] if all(name in each for each in ranges)]
    covering = {}
    for name in vectors:
        lows, highs = zip(*(each[name] for each in ranges), strict=True)
        low = tuple(min(values) for values in zip_longest(*lows, fillvalue=0.0))
        high = tuple(max(values) for values in zip_longest(*highs, fillvalue=0.0))
        covering[name] = (low, high)
    return covering


def find_task(name: str) -> Task:
    """The task called "suite/task", or the task of that name in whichever suite holds it.

    Raises:
        UnknownNameError: No such suite, or no such task in it or in any suite.
        ConfigurationError: Different suites give the name to different tasks; say which suite.
    """
    suite_name, separator, task_name = name.rpartition("/")
    if separator:
        return get_suite(suite_name).task(task_name)
    suites = available_suites()
    holders = [suite for suite in suites if any(task.name == name for task in suite.tasks)]
    if not holders:
        known = {task.name for suite in suites for task in suite.tasks}
        raise UnknownNameError("task", name, known, "vla-cl tasks")
    task = holders[0].task(name)
    for other in holders[1:]:
        if other.task(name) != task:
            first, second = f"{holders[0].name}/{name}", f"{other.name}/{name}"
            raise ConfigurationError(f"task {name!r} is ambiguous; say {first!r} or {second!r}")
    return task
