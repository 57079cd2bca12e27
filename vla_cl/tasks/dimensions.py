"""Sequences that mix robots: the sizes of action, proprioception and state that all their tasks fit into.

A policy has one action size. Where the tasks of a sequence differ in theirs, narrower vectors are filled up with zeros
to the widest: in training windows, in what the policy observes, and in what it must predict; a task executes the first
of the predicted numbers. That is how generalist policies take in many robots (Black et al., "pi0: A
Vision-Language-Action Flow Model for General Robot Control", 2024). Demonstration files hold each task's own sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from vla_cl.envs import BACKENDS, ObservationOptions
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.tasks.task import Task

Dimensions = dict[str, int]
"""Sizes of "actions", "agent_pos" and "environment_state"."""


def common_dimensions(tasks: Sequence[Task], observation: ObservationOptions) -> Dimensions:
    """The widest sizes among tasks; empty where they cannot differ, as all come from one backend that is `uniform`.

    Args:
        tasks: A sequence.
        observation: What a policy sees of it.

    Raises:
        ConfigurationError: The tasks do not show the same cameras.
    """
    unique = tuple({task.name: task for task in tasks}.values())
    alike = {task.backend: task for task in reversed(unique) if BACKENDS[task.backend].uniform}
    looked_at = [task for task in unique if alike.get(task.backend, task) is task]
    if len(looked_at) == 1:
        return {}
    _check_default_cameras(unique, observation)
    widest: Dimensions = {}
    for task in looked_at:
        widest = {name: max(size, widest.get(name, 0)) for name, size in dimensions_of(task, observation).items()}
    return widest


def dimensions_of(task: Task, observation: ObservationOptions) -> Dimensions:
    """A task's own sizes, as its environment has them.

    Raises:
        ConfigurationError: It does not have a camera.
    """
    options = ObservationOptions(observation.cameras, observation.image_size, privileged=True)
    try:
        env = task.environment(options)
    except UnknownNameError as error:
        raise ConfigurationError(
            f"task {task.name!r}: {error}; a sequence needs cameras that all tasks have"
        ) from error
    with closing(env):
        sizes = {
            "actions": env.action_space.shape or (0,),
            "agent_pos": env.agent_pos().shape,
            "environment_state": env.environment_state().shape,
        }
    return {name: size[0] for name, size in sizes.items()}


def _check_default_cameras(tasks: Sequence[Task], observation: ObservationOptions) -> None:
    if observation.cameras is not None:
        return
    shown = {task.name: BACKENDS[task.backend].default_cameras for task in tasks}
    first, *others = shown.items()
    for name, cameras in others:
        if cameras != first[1]:
            theirs = f"{', '.join(first[1])}; {', '.join(cameras)}"
            raise ConfigurationError(
                f"tasks {first[0]!r} and {name!r} show different cameras ({theirs}); "
                "name common ones with policy.cameras=[NAME], or use a policy without pixels"
            )
