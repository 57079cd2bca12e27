"""Scripted experts: where demonstrations come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import ManipulationEnv
from vla_cl.registry import Registry


class Expert(Protocol):
    """A controller that may look at everything the simulator knows."""

    def reset(self, env: ManipulationEnv, generator: np.random.Generator) -> None:
        """Start an episode in the state that `env` is in. Any randomness comes from `generator`."""

    def act(self, env: ManipulationEnv) -> NDArray[np.float32]:
        """The action (A,) in [-1, 1] for the present state of `env`."""


EXPERTS: Registry[Callable[[], Expert]] = Registry("expert", "vla_cl.tasks")
"""Factories of experts by name; a task names its own."""
