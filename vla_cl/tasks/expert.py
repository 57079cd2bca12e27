"""Scripted experts: where demonstrations come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import ManipulationEnv
from vla_cl.errors import ConfigurationError
from vla_cl.registry import Registry
from vla_cl.tasks.task import Task


class Expert(Protocol):
    """A controller that may look at everything the simulator knows."""

    def reset(self, env: ManipulationEnv, generator: np.random.Generator) -> None:
        """Start an episode in the state that `env` is in. Any randomness comes from `generator`."""

    def act(self, env: ManipulationEnv) -> NDArray[np.float32]:
        """The action (A,) in [-1, 1] for the present state of `env`."""


EXPERTS: Registry[Callable[[], Expert]] = Registry("expert", "vla_cl.tasks")
"""Factories of experts by name; a task names its own."""


def make_expert(task: Task) -> Expert:
    """Build the expert that `task` names.

    Raises:
        ConfigurationError: The task has no expert.
        UnknownNameError: Nobody registered the expert that it names.
    """
    if not task.expert:
        raise ConfigurationError(f"task {task.name!r} names no expert; register one in EXPERTS and name it in the task")
    return EXPERTS[task.expert]()
