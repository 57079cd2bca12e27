"""Gymnasium ids: legal, registered at import, cheap, and leading to our environments."""

from __future__ import annotations

import json
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import vla_cl
from vla_cl.envs import ManipulationEnv
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.tasks import SUITES, TaskSuite, get_suite, gymnasium_id, register_gymnasium_ids, register_suite
from vla_cl.tasks.meta_world import meta_world_task

WINDOW = "vla_cl/mw5.window-close-v0"


def test_every_task_of_every_suite_has_an_id():
    identifiers = register_gymnasium_ids()
    expected = {gymnasium_id(name, task.name) for name in SUITES for task in get_suite(name).tasks}
    assert set(identifiers) == expected <= set(gymnasium.registry)
    assert len(identifiers) == len(set(identifiers))
    assert WINDOW in identifiers


def test_ids_set_no_step_limit_because_the_environment_truncates_itself():
    assert all(gymnasium.spec(identifier).max_episode_steps is None for identifier in register_gymnasium_ids())
    with gymnasium.make(WINDOW, cameras=()) as env:
        env.reset(seed=0)
        steps, truncated = 0, False
        while not truncated:
            _, _, terminated, truncated, info = env.step(np.zeros(4, np.float32))
            steps += 1
        assert (steps, terminated, info["success"]) == (200, False, False)


def test_importing_the_package_registers_ids_without_a_simulator_or_torch():
    program = (
        "import sys, json, gymnasium, vla_cl; heavy = ['metaworld', 'mujoco', 'torch', 'transformers', 'h5py', 'PIL'];"
        f"print(json.dumps([[name for name in heavy if name in sys.modules], {WINDOW!r} in gymnasium.registry]))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert json.loads(output) == [[], True]


def test_made_environments_are_ours_and_show_what_was_asked_for():
    with gymnasium.make(WINDOW, cameras=(), privileged=True) as env:
        assert isinstance(env.unwrapped, ManipulationEnv)
        observation, info = env.reset(seed=3)
        assert set(observation) == {"agent_pos", "environment_state"}
        assert observation in env.observation_space
        assert info["success"] is False
        assert env.unwrapped.specification.horizon == 200


def test_make_takes_a_name_with_or_without_its_suite():
    for name in ("mw5/window-close", "window-close"):
        with vla_cl.make(name, cameras=()) as env:
            assert env.unwrapped.specification.arguments == {"task": "window-close-v3"}
    with pytest.raises(UnknownNameError, match="did you mean 'window-close'"):
        vla_cl.make("mw5/window-closing")
    with pytest.raises(ConfigurationError, match="image_size must be 64 to 256"):
        vla_cl.make("mw5/window-close", image_size=32)


def test_a_made_environment_passes_gymnasiums_checker():
    with gymnasium.make(WINDOW, cameras=(), privileged=True) as env:
        check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vectors_of_environments_step_together(mode: str):
    environments = gymnasium.make_vec(WINDOW, num_envs=2, vectorization_mode=mode, cameras=(), privileged=True)
    try:
        observation, _ = environments.reset(seed=[5, 6])
        assert observation["environment_state"].shape == (2, 39)
        actions = np.zeros((2, 4), np.float32)
        for _ in range(3):
            observation, reward, terminated, truncated, info = environments.step(actions)
        assert reward.shape == terminated.shape == truncated.shape == info["success"].shape == (2,)
    finally:
        environments.close()
    with vla_cl.make("window-close", cameras=(), privileged=True) as env:
        env.reset(seed=6)
        for _ in range(3):
            alone, *_ = env.step(np.zeros(4, np.float32))
    np.testing.assert_array_equal(observation["environment_state"][1], alone["environment_state"])


def test_processes_of_a_vector_draw_their_own_images():
    program = (
        "import gymnasium, vla_cl;"
        f"environments = gymnasium.make_vec({WINDOW!r}, num_envs=2, vectorization_mode='async', cameras=('corner2',));"
        "observation, _ = environments.reset(seed=[0, 1]); environments.close();"
        "images = observation['pixels']['corner2'];"
        "assert images.shape == (2, 64, 64, 3), images.shape; assert images.std(axis=(1, 2, 3)).min() > 10"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_suite_registered_later_gets_ids_on_demand(add_suite):
    add_suite(TaskSuite("mine", (meta_world_task("push"),)))
    assert gymnasium_id("mine", "push") in register_gymnasium_ids()
    with gymnasium.make("vla_cl/mine.push-v0", cameras=()) as env:
        env.reset(seed=0)


def test_a_suite_that_cannot_be_built_does_not_take_the_others_along(add_suite, caplog):
    register_suite("broken")(lambda: TaskSuite("broken", ()))
    assert WINDOW in register_gymnasium_ids()
    assert "suite 'broken' gets no Gymnasium ids" in caplog.text


def test_arguments_of_the_backend_can_be_chosen() -> None:
    stock = vla_cl.make("robosuite10/lift", cameras=(), robot="UR5e", stepper="robosuite", rebuild=True)
    assert stock.robot == "UR5e"
    stock.reset(seed=0)
    model = stock.model
    stock.reset(seed=0)
    assert stock.model is not model  # compiled anew, as robosuite does
    stock.close()


def test_an_argument_that_the_backend_does_not_take_is_one_line() -> None:
    with pytest.raises(ConfigurationError, match="speed") as caught:
        vla_cl.make("robosuite10/lift", cameras=(), speed="fast")
    assert "\n" not in str(caught.value)
