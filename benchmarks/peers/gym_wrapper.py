"""A policy that drives robosuite's own GymWrapper, as robosuite's documentation makes it: one process, one environment,
every camera drawn at every step.

The scene is the same as ours, thing by thing: it is declared once, and robosuite's own environment builds it, steps it
and draws it. What differs is what is measured: robosuite's control loop, its renderer with its effects and all details
of meshes, a frame a step whether or not the policy looks, and one episode at a time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vla_cl.data import ObservationBatch
from vla_cl.envs.tabletop.scene import Scene
from vla_cl.evaluation import PolicyController
from vla_cl.policies import Policy
from vla_cl.tasks import Task, find_task

CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}
"""Ours, and what robosuite calls them."""


def tabletop_environment(task: Task, image_size: int) -> Any:
    """robosuite's `GymWrapper` around the scene of a tabletop task; it observes the arm and both cameras.

    The scene is not compiled anew at each reset, which robosuite does by default and which would cost it seconds.
    """
    from vla_cl.envs.robosuite_import import import_robosuite
    from vla_cl.envs.tabletop.world import ENVIRONMENT, register_world

    robosuite = import_robosuite()
    register_world()
    from robosuite.environments.base import REGISTERED_ENVS
    from robosuite.wrappers import GymWrapper

    world = REGISTERED_ENVS[ENVIRONMENT]

    class ObservedTabletop(world):  # type: ignore[misc, valid-type]
        """Ours observes nothing by itself, because the environment around it does; here robosuite's own is back."""

        reward_scale = 1.0  # which the wrapper asks for

        def _setup_observables(self) -> Any:
            return super(world, self)._setup_observables()

    raw = robosuite.make(
        ObservedTabletop.__name__,
        scene=Scene.from_mapping(task.arguments["scene"]),
        robots=task.arguments.get("robot", "Panda"),
        has_renderer=False,
        has_offscreen_renderer=True,
        use_camera_obs=True,
        camera_names=list(CAMERAS.values()),
        camera_heights=image_size,
        camera_widths=image_size,
        hard_reset=False,
        ignore_done=True,
    )
    keys = ["robot0_eef_pos", "robot0_gripper_qpos", *(f"{name}_image" for name in CAMERAS.values())]
    return GymWrapper(raw, keys=keys, flatten_obs=False)


def seen(observation: Mapping[str, NDArray[Any]], instruction: str) -> ObservationBatch:
    """robosuite's observation as a batch of one; the seven numbers of the arm are filled up with zeros."""
    arm = np.concatenate([observation["robot0_eef_pos"], np.zeros(3), observation["robot0_gripper_qpos"][:1]])
    pixels = {ours: observation[f"{theirs}_image"][::-1].copy() for ours, theirs in CAMERAS.items()}
    return ObservationBatch.from_environments([{"agent_pos": arm.astype(np.float32), "pixels": pixels}], [instruction])


def episode(env: Any, controller: PolicyController, instruction: str, horizon: int) -> None:
    """One episode of `horizon` steps, its reset included; the policy is asked when its chunk is used up."""
    observation, _ = env.reset()
    for step in range(0, horizon, controller.execute):
        (chunk,) = controller.act(seen(observation, instruction), [step])
        for action in chunk[: min(controller.execute, horizon - step)]:
            observation, *_ = env.step(action)


def serve(connection: Connection, name: str, policy: str, horizon: int, threads: int) -> None:
    """Run one episode for each message until one is false, and answer its seconds. A process of its own, so that GL
    contexts do not meet.

    Args:
        connection: To who asks.
        name: Of the task.
        policy: Folder of a saved policy.
        horizon: Steps of an episode.
        threads: Of torch.
    """
    torch.set_num_threads(threads)
    task, loaded = find_task(name), Policy.from_pretrained(policy)
    controller = PolicyController(loaded)
    env = tabletop_environment(task, loaded.features.image_size)
    episode(env, controller, task.instruction, 2 * controller.execute)  # what is compiled or loaded once
    connection.send("ready")
    while connection.recv():
        started = time.perf_counter()
        episode(env, controller, task.instruction, horizon)
        connection.send(time.perf_counter() - started)
    env.close()
