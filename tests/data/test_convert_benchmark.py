"""LIBERO's own task and its layout: what our simulator says is where LIBERO's readers look for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.data.foreign_files import write_libero
from vla_cl.data import (
    DemonstrationFile,
    Episode,
    Header,
    check_given,
    convert,
    given_demonstrations,
    plan_conversion,
    write_demonstrations,
)
from vla_cl.data.attempts import observe_states, stack_observations
from vla_cl.envs import ObservationOptions
from vla_cl.tasks import get_suite

STEPS = 4


def flattened(data: Any) -> np.ndarray:
    return np.concatenate([[data.time], data.qpos, data.qvel])


def test_an_episode_of_liberos_simulator_is_written_as_libero_would(
    libero_root: Path, make_header: Callable[..., Header], tmp_path: Path
) -> None:
    task = get_suite("libero_goal").task("turn_on_the_stove")
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, 7)).astype(np.float32)
    with closing(task.environment(ObservationOptions(cameras=()))) as env:
        env.restart(seed=0)
        states, flat = [env.get_state()], [flattened(env.data)]
        for action in actions:
            env.advance(action)
            states.append(env.get_state())
            flat.append(flattened(env.data))
        joints = [int(env.model.joint(f"robot0_joint{number}").qposadr[0]) for number in range(1, 8)]
        observations = stack_observations(observe_states(env, states), STEPS + 1)
    episode = Episode(0, 0, actions, actions, np.stack(states[:-1]), np.zeros(STEPS, np.float32), observations)
    environment = {"backend": task.backend, "arguments": dict(task.arguments), "horizon": task.horizon}
    header = replace(
        make_header(cameras=()),
        task=task.name,
        instruction=task.instruction,
        environment=environment,
        observation={"cameras": [], "image_size": 64, "privileged": False},
    )
    write_demonstrations(tmp_path / "ours.hdf5", header, [episode])
    convert(plan_conversion([tmp_path / "ours.hdf5"], "libero", tmp_path / "theirs.hdf5"))
    with h5py.File(tmp_path / "theirs.hdf5") as file:
        about = json.loads(file["data"].attrs["problem_info"])
        assert about["problem_name"] == "libero_tabletop_manipulation"
        assert about["language_instruction"] == "turn on the stove"
        assert file["data"].attrs["bddl_file_name"].endswith("bddl_files/libero_goal/turn_on_the_stove.bddl")
        group = file["data/demo_0"]
        np.testing.assert_array_equal(group["states"][()], np.stack(flat[:-1]))
        np.testing.assert_array_equal(group["obs/joint_states"][()], np.stack(flat)[1:, 1:][:, joints])
        np.testing.assert_array_equal(group["obs/ee_states"][()], observations["agent_pos"][1:, :6])
        np.testing.assert_array_equal(group["obs/gripper_states"][()], observations["agent_pos"][1:, 6:])
        np.testing.assert_array_equal(group["robot_states"][:, :2], observations["agent_pos"][1:, 6:])
    convert(plan_conversion([tmp_path / "theirs.hdf5"], "vla_cl", tmp_path / "back.hdf5"))
    with DemonstrationFile(tmp_path / "back.hdf5") as file:
        np.testing.assert_array_equal(file.episode(0).states, episode.states)


def test_liberos_files_fit_liberos_tasks(libero_root: Path, tmp_path: Path) -> None:
    task = get_suite("libero_goal").task("turn_on_the_stove")
    path = write_libero(tmp_path / f"{task.name}_demo.hdf5", (3,))
    found = given_demonstrations(tmp_path, [task])
    assert found == {task.name: path}
    check_given(found, [task], ObservationOptions(image_size=64))
