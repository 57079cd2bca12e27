"""Meta-World's scripted policies as experts.

The package ships one hand-written policy a task. Each is a stateless function of the 39 numbers of Meta-World's own
observation, which is what `environment_state()` returns for the backend "meta_world".

Source: Yu et al., "Meta-World: A Benchmark and Evaluation for Multi-Task and Meta Reinforcement Learning", 2019;
`metaworld.policies` of the package.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import ManipulationEnv
from vla_cl.errors import ConfigurationError


class MetaWorldExpert:
    """The package's scripted policy for one Meta-World task, behind the `Expert` protocol.

    Deterministic and without memory: the action depends on the present state alone, so an expert can take over an
    episode at any step, which is what labelling noisy demonstrations needs.

    Args:
        task: Meta-World's name of the task, with its version ("window-close-v3").
    """

    def __init__(self, task: str) -> None:
        self.task = task
        self._policy = _scripted_policy(task)

    def reset(self, env: ManipulationEnv, generator: np.random.Generator) -> None:
        """Start an episode. Nothing to prepare: the policy keeps no state and draws no random number."""

    def act(self, env: ManipulationEnv) -> NDArray[np.float32]:
        """The action (4,) in [-1, 1]: hand motion along x, y and z in centimetres, and gripper effort (1 closes).

        Some policies write into the array that they read, so each is handed its own copy.
        """
        state = np.array(env.environment_state(), dtype=np.float64)
        with warnings.catch_warnings():
            # The policies' gains exceed 1 far from the target on purpose; the package warns at every such step.
            warnings.filterwarnings("ignore", message="Constant\\(s\\) may be too high")
            action = self._policy.get_action(state)
        clipped: NDArray[np.float32] = np.clip(action, -1.0, 1.0).astype(np.float32)
        return clipped


def _scripted_policy(task: str) -> Any:
    """Build the package's policy for a task; imports metaworld's policies, not its environments."""
    from metaworld.policies import ENV_POLICY_MAP

    try:
        return ENV_POLICY_MAP[task]()
    except KeyError:
        raise ConfigurationError(f"metaworld has no scripted policy for {task!r}; name one of its v3 tasks") from None
