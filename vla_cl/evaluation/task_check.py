"""Proving a task on the real simulator, one property after another: what `vla-cl tasks check` prints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from vla_cl.envs import ManipulationEnv, ObservationOptions
from vla_cl.errors import ConfigurationError, VlaClError
from vla_cl.evaluation import task_properties
from vla_cl.evaluation.task_properties import Subject
from vla_cl.tasks import Task

EPISODES = 20
MINIMUM_SUCCESS = 0.9

PROPERTIES: dict[str, Callable[[Subject], str]] = {
    "contract": task_properties.contract,
    "seeding": task_properties.seeding,
    "distinct starts": task_properties.distinct_starts,
    "unsolved starts": task_properties.unsolved_starts,
    "saved states": task_properties.saved_states,
    "horizon": task_properties.horizon,
    "expert": task_properties.expert,
    "replay": task_properties.replay,
    "rendering": task_properties.rendering,
}
"""What is checked, in this order, once the environment could be built."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Check:
    """Outcome of one check.

    Args:
        name: What was checked ("seeding").
        passed: Whether the task keeps it.
        told: What was measured or, in one line, what is wrong.
    """

    name: str
    passed: bool
    told: str


def check_task(
    task: Task,
    *,
    episodes: int = EPISODES,
    minimum_success: float = MINIMUM_SUCCESS,
    plugins: Sequence[str] = (),
) -> Iterator[Check]:
    """Check a task, yielding each outcome as soon as it is known. Nothing that the task's code raises ends it early.

    Args:
        task: The task.
        episodes: Initial states of each split that are looked at, and episodes of the expert.
        minimum_success: Share of the test episodes that the expert must solve.
        plugins: Modules or files that register the task, for the other process that seeds are compared with.

    Raises:
        ConfigurationError: `episodes` is less than 2, or `minimum_success` is no share.
    """
    if episodes < 2:
        raise ConfigurationError(f"episodes must be at least 2, to tell initial states apart, got {episodes}")
    if not 0 <= minimum_success <= 1:
        raise ConfigurationError(f"minimum_success must be 0 to 1, got {minimum_success}")
    built: list[ManipulationEnv] = []

    def builds() -> str:
        env = task.environment(ObservationOptions(cameras=(), privileged=True))
        built.append(env)
        sizes = env.action_space.shape, env.agent_pos().shape, env.environment_state().shape
        return "action {}, agent_pos {}, environment_state {}".format(*sizes)

    yield _outcome("builds", builds)
    if not built:
        return
    with closing(built[0]) as env:
        subject = Subject(task, env, episodes, minimum_success, tuple(plugins))
        for name, check in PROPERTIES.items():
            yield _outcome(name, lambda check=check: check(subject))  # type: ignore[misc]


def _outcome(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except VlaClError as error:
        return Check(name, False, " ".join(str(error).split()))
    except Exception as error:
        logger.debug("%s failed", name, exc_info=error)
        return Check(name, False, " ".join(f"{type(error).__name__}: {error}".split()))
