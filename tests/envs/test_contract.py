"""What every caller relies on: Gymnasium's checker, observations, actions, endings, stored states."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.envs.scenes import expert_actions, meta_world, meta_world_spec, random_actions
from vla_cl.envs import BACKENDS, EnvironmentSpec, MetaWorldEnv, ObservationOptions, make_environment
from vla_cl.errors import ConfigurationError, SimulationError, UnknownNameError


@pytest.fixture(scope="module")
def env() -> MetaWorldEnv:
    return meta_world("window-close-v3")


@pytest.fixture
def gymnasium_id() -> Iterator[str]:
    yield "vla_cl_tests/window-close-v0"
    gymnasium.registry.pop("vla_cl_tests/window-close-v0")


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
@pytest.mark.parametrize("privileged", [False, True])
@pytest.mark.parametrize("cameras", [(), None])
def test_gymnasiums_checker_has_nothing_to_say(
    gymnasium_id: str, cameras: tuple[str, ...] | None, privileged: bool, render_mode: str | None
) -> None:
    spec = meta_world_spec(cameras=cameras, privileged=privileged)
    gymnasium.register(gymnasium_id, entry_point=make_environment, kwargs={"spec": spec})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*infinity.*")  # positions in metres have no bounds
        check_env(gymnasium.make(gymnasium_id, render_mode=render_mode).unwrapped)


def test_observations_are_what_was_asked_for() -> None:
    assert set(meta_world().reset(seed=0)[0]) == {"agent_pos"}
    env = meta_world(privileged=True, cameras=("corner", "gripperPOV"), image_size=80)
    observation, info = env.reset(seed=0)
    assert info["success"] is False
    assert env.observation_space.contains(observation)
    assert observation["agent_pos"].shape == (4,)
    assert observation["agent_pos"].dtype == np.float32
    assert observation["environment_state"].shape == (39,)
    assert {name: image.shape for name, image in observation["pixels"].items()} == {
        "corner": (80, 80, 3),
        "gripperPOV": (80, 80, 3),
    }


def test_proprioception_is_the_hand_and_the_opening_of_the_gripper(env: MetaWorldEnv) -> None:
    env.restart(seed=0)
    for closing in (-1.0, 1.0):
        for _ in range(30):
            env.advance(np.array([0, 0, 0, closing], np.float32))
        np.testing.assert_allclose(env.agent_pos()[:3], env.data.body("hand").xpos, rtol=1e-6)
        claws = env.data.body("rightclaw").xpos - env.data.body("leftclaw").xpos
        assert env.agent_pos()[3] == pytest.approx(min(np.linalg.norm(claws) / 0.1, 1.0))
    assert env.agent_pos()[3] < 0.9


def test_model_and_data_are_mujocos_own(env: MetaWorldEnv) -> None:
    assert isinstance(env.unwrapped.model, mujoco.MjModel)
    assert isinstance(env.unwrapped.data, mujoco.MjData)
    assert env.metadata["render_fps"] == round(1 / (env.model.opt.timestep * env.meta_world.frame_skip)) == 80


def test_success_terminates_and_is_told_every_step() -> None:
    env = meta_world("reach-v3", horizon=300)
    env.restart(seed=0)
    actions = expert_actions(env, 100, noise=0.0)
    env.restart(seed=0)
    for action in actions:
        _, _, terminated, truncated, info = env.step(action)
        assert info["success"] is terminated
        assert not truncated
        assert info["failure"] == ""
        if terminated:
            return
    pytest.fail("the expert did not reach")


def test_the_horizon_truncates(env: MetaWorldEnv) -> None:
    env = meta_world(horizon=3)
    env.restart(seed=0)
    ends = [env.advance(np.zeros(4, np.float32)) for _ in range(3)]
    assert [(end.terminated, end.truncated, end.info["failure"]) for end in ends] == [
        (False, False, ""),
        (False, False, ""),
        (False, True, "horizon"),
    ]
    env.restart(seed=0)
    assert not env.advance(np.zeros(4, np.float32)).truncated


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4))
def test_actions_beyond_the_box_are_clipped(env: MetaWorldEnv, action: list[float]) -> None:
    env.restart(seed=0)
    env.advance(np.array(action, np.float32))
    after = env.get_state()
    env.restart(seed=0)
    env.advance(np.clip(np.array(action, np.float32), -1, 1))
    np.testing.assert_array_equal(env.get_state(), after)


@pytest.mark.parametrize("action", [np.zeros(3), np.zeros((1, 4)), np.array([0, 0, np.nan, 0])])
def test_an_unusable_action_is_refused(env: MetaWorldEnv, action: np.ndarray) -> None:
    with pytest.raises(ConfigurationError, match=r"action must be finite with shape \(4,\)"):
        env.advance(action)


def test_a_stored_state_is_the_one_of_its_seed() -> None:
    env = meta_world(init_state_seeds=(11, 12))
    env.reset(options={"init_state": 1})
    stored = env.get_state()
    env.reset(seed=12)
    np.testing.assert_array_equal(env.get_state(), stored)
    with pytest.raises(ConfigurationError, match="init_state 2 is out of range; this task stores 2 states"):
        env.reset(options={"init_state": 2})
    with pytest.raises(ConfigurationError, match="'initial' is unknown"):
        env.reset(options={"initial": 2})


def test_without_a_seed_episodes_follow_the_stream_of_the_last_one(env: MetaWorldEnv) -> None:
    def stream(seed: int) -> list[np.ndarray]:
        env.reset(seed=seed)
        states = []
        for _ in range(2):
            env.reset()
            states.append(env.get_state())
        return states

    first, again, other = stream(1), stream(1), stream(2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])


def test_a_state_of_another_task_is_refused(env: MetaWorldEnv) -> None:
    with pytest.raises(SimulationError, match="a state of window-close-v3 has"):
        env.set_state(np.zeros(7))


def test_a_state_remembers_the_step(env: MetaWorldEnv) -> None:
    env.restart(seed=0)
    for action in random_actions(5):
        env.advance(action)
    state = env.get_state()
    env.restart(seed=0)
    env.set_state(state)
    assert env.elapsed_steps == 5


def test_an_unstable_simulation_ends_the_episode_and_leaves_no_trace(
    env: MetaWorldEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    env.restart(seed=0)
    start = env.get_state()
    env.data.qvel[:] = 1e12
    reward, terminated, truncated, info = env.advance(np.zeros(4, np.float32))
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info == {"success": False, "failure": "unstable"}
    assert "unstable" in caplog.text
    assert not list(tmp_path.iterdir()), "MuJoCo's log belongs in logging"
    assert np.isfinite(env.observe()["agent_pos"]).all()
    env.restart(seed=0)
    np.testing.assert_array_equal(env.get_state(), start)
    assert not env.advance(np.zeros(4, np.float32)).truncated


def test_unknown_names_are_told_with_the_way_out() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'window-close-v3'"):
        meta_world("window-clos-v3")
    with pytest.raises(UnknownNameError, match=r"camera 'above' is not registered.*corner2.*topview"):
        meta_world(cameras=("corner", "above"))
    with pytest.raises(UnknownNameError, match="did you mean 'meta_world'"):
        make_environment(EnvironmentSpec("metaworld"))


@pytest.mark.parametrize(("horizon", "size"), [(0, 64), (10, 63), (10, 257)])
def test_values_out_of_range_are_refused(horizon: int, size: int) -> None:
    with pytest.raises(ConfigurationError, match="must be"):
        make_environment(
            EnvironmentSpec("meta_world", {"task": "push-v3"}, horizon, observation=ObservationOptions((), size))
        )
    with pytest.raises(ConfigurationError, match="render_mode 'human' is not supported"):
        make_environment(meta_world_spec(), render_mode="human")


def test_the_backend_is_registered() -> None:
    assert BACKENDS["meta_world"] is MetaWorldEnv
