"""An expert that follows a plan, and begins it anew when it ends without success."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import ManipulationEnv
from vla_cl.envs.robosuite.env import RobosuiteEnv
from vla_cl.tasks.skills.hand import Hand
from vla_cl.tasks.skills.plan import Plan, SkillFailed

_SLOWEST = 0.85  # demonstrations differ in pace by this much


class SkillExpert:
    """Runs a plan of skills in a robosuite environment.

    The plan looks at the world at every step. When it ends, or a skill gives up, while the episode goes on, it is begun
    anew with a fresh look, so a plan should skip what is done already. The only randomness is the pace.

    Args:
        plan: Makes the plan for a hand; a generator function.
    """

    def __init__(self, plan: Callable[[Hand], Plan[None]]) -> None:
        self._make = plan
        self._hand: Hand | None = None
        self._plan: Plan[None] | None = None

    def reset(self, env: ManipulationEnv, generator: np.random.Generator) -> None:
        """Begin the plan in the state that `env`, a `RobosuiteEnv`, is in."""
        self._hand = Hand(cast(RobosuiteEnv, env), pace=float(generator.uniform(_SLOWEST, 1.0)))
        self._plan = self._make(self._hand)

    def act(self, env: ManipulationEnv) -> NDArray[np.float32]:
        """The plan's next action (7,) in the present state.

        Raises:
            RuntimeError: It was never reset, or `env` is another environment than at the reset.
        """
        if self._hand is None or self._plan is None or env is not self._hand.env:
            raise RuntimeError("a SkillExpert acts in the environment that it was reset in; call reset(env, generator)")
        for _ in range(2):
            try:
                return next(self._plan)
            except (StopIteration, SkillFailed):
                self._plan = self._make(self._hand)
        return self._hand.toward(self._hand.position)  # a plan without a single step has nothing left to do
