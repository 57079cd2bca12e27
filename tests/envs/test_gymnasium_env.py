"""The Gymnasium door: environments of other people behind our contract, unchanged, seeded and saved exactly."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vla_cl.envs import EnvironmentSpec, GymnasiumEnv, ObservationOptions, make_environment
from vla_cl.errors import ConfigurationError, SimulationError, UnknownNameError

PUSH = {"id": "FetchPush-v4", "modules": ["gymnasium_robotics"], "success": "is_success"}
THERMOSTAT = {"id": "vla_cl_tests/Thermostat-v0", "modules": ["tests.envs.foreign"], "success": "warm"}
DOOR = {"id": "AdroitHandDoor-v1", "modules": ["gymnasium_robotics"], "success": "success"}
REACHER = {"id": "Reacher-v5", "success": "terminated"}


def foreign(arguments: dict[str, Any], shown: tuple[str, ...] = (), size: int = 64, **more: Any) -> GymnasiumEnv:
    observation = ObservationOptions(shown, size, privileged=True)
    env = make_environment(EnvironmentSpec("gymnasium", {**arguments, **more}, 60, observation=observation))
    assert isinstance(env, GymnasiumEnv)
    return env


def actions(env: GymnasiumEnv, count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, *env.action_space.shape)).astype(np.float32)


@pytest.mark.filterwarnings("ignore:.*Box observation space.*")
@pytest.mark.parametrize("arguments", [PUSH, THERMOSTAT], ids=["mujoco", "other"])
def test_gymnasiums_checker_has_nothing_to_say(arguments: dict[str, Any]) -> None:
    check_env(foreign(arguments), skip_render_check=True)


@pytest.mark.parametrize(
    "arguments",
    [PUSH, {**PUSH, "id": "FetchPickAndPlace-v4"}, {**PUSH, "state": "replay"}, DOOR, REACHER, THERMOSTAT],
    ids=lambda arguments: arguments["id"] + arguments.get("state", ""),
)
def test_a_saved_state_continues_bit_for_bit_in_another_environment(arguments: dict[str, Any]) -> None:
    env, other = foreign(arguments), foreign(arguments)
    taken = actions(env, 30)
    env.restart(seed=5)
    for action in taken[:10]:
        env.advance(action)
    saved = env.get_state()
    expected = [(env.advance(action).reward, env.environment_state(), env.get_state()) for action in taken[10:]]
    other.restart(seed=77)
    other.advance(taken[0])
    other.set_state(saved)
    np.testing.assert_array_equal(other.get_state(), saved)
    for action, (reward, seen, state) in zip(taken[10:], expected, strict=True):
        assert other.advance(action).reward == reward
        np.testing.assert_array_equal(other.environment_state(), seen)
        np.testing.assert_array_equal(other.get_state(), state)


def test_it_computes_what_the_environment_computes() -> None:
    env = foreign(PUSH, skip_solved=False)
    reference = gymnasium.make("FetchPush-v4", max_episode_steps=100)
    observed, _ = reference.reset(seed=8)
    env.restart(seed=8)
    parts = [observed[key].ravel() for key in ("achieved_goal", "desired_goal", "observation")]
    np.testing.assert_array_equal(env.environment_state(), np.concatenate(parts))
    for action in actions(env, 40):
        observed, reward, *_, info = reference.step(action)
        advance = env.advance(action)
        np.testing.assert_array_equal(env.observed["observation"], observed["observation"])
        assert (advance.reward, advance.info["success"]) == (reward, bool(info["is_success"]))


def test_states_that_are_restored_in_order_cost_one_step_each(monkeypatch: pytest.MonkeyPatch) -> None:
    env = foreign(THERMOSTAT)
    env.restart(seed=1)
    states = [env.get_state()]
    for action in actions(env, 12):
        env.advance(0.1 * action)
        states.append(env.get_state())
    steps = []
    step = env.wrapped.step
    monkeypatch.setattr(env.wrapped, "step", lambda command: (steps.append(1), step(command))[1])
    for state in states:
        env.set_state(state)
    assert len(steps) == 12


def test_a_state_of_another_task_is_refused() -> None:
    for arguments in (PUSH, THERMOSTAT):
        with pytest.raises(SimulationError, match="got 7"):
            foreign(arguments).set_state(np.zeros(7))


def test_actions_are_scaled_from_the_unit_box_and_the_rest_stays_at_rest() -> None:
    for chosen, action, expected in (
        (None, [-1.0, 1.0], [0.0, 2.0]),
        (None, [0.5, 0.0], [7.5, 0.0]),
        ([1], [0.5], [0.0, 1.0]),
    ):
        env = foreign(THERMOSTAT, actions=chosen)
        env.restart(seed=0)
        env.advance(np.array(action, np.float32))
        np.testing.assert_allclose(env.wrapped.unwrapped.commanded, expected)


def test_the_wrapped_time_limit_gives_way_to_ours_and_other_endings_truncate() -> None:
    for cooling, failure in ((-1.0, "terminated"), (0.0, "horizon")):
        env = foreign(THERMOSTAT, kwargs={"noise": 0.0})
        env.restart(seed=0)
        command, ends = np.array([-1.0, cooling], np.float32), []
        while not ends or not ends[-1].truncated:
            ends.append(env.advance(command))
        assert len(ends) > 3
        assert ends[-1].info["failure"] == failure
        assert not ends[-1].terminated


def test_numbers_that_a_simulator_cannot_go_on_from_end_the_episode_and_the_next_one_is_clean() -> None:
    env = foreign(PUSH)
    env.restart(seed=3)
    start, still = env.get_state(), np.zeros(4, np.float32)
    following = env.advance(still)
    after = env.get_state()
    env.data.qvel[:] = 1e12
    assert env.advance(still).info == {"success": False, "failure": "unstable"}
    env.restart(seed=3)
    np.testing.assert_array_equal(env.get_state(), start)
    assert env.advance(still).reward == following.reward
    np.testing.assert_array_equal(env.get_state(), after)

    room = foreign(THERMOSTAT, kwargs={"noise": 0.0, "melts_at": 30.0})
    room.restart(seed=0)
    heated = [room.advance(np.array([1.0, 1.0], np.float32)) for _ in range(15)]
    assert [each.truncated for each in heated].index(True) == [each.info["failure"] for each in heated].index(
        "unstable"
    )


def test_success_is_read_where_the_environment_tells_it() -> None:
    env = foreign(THERMOSTAT, kwargs={"noise": 0.0})
    env.restart(seed=2)
    assert not env.advance(np.array([-1.0, 0.0], np.float32)).info["success"]
    ends = [env.advance(np.array([-0.6, 0.0], np.float32)) for _ in range(59)]  # 0.2 degrees warmer each step
    warm = [each.info["success"] for each in ends]
    assert any(warm) and warm == [each.terminated for each in ends]
    with pytest.raises(ConfigurationError, match=r"tells no 'won' in info, only warm; name one of these"):
        foreign(THERMOSTAT, success="won").reset(seed=0)


def test_initial_states_that_are_solved_are_passed_over() -> None:
    solved, passed_over = foreign(PUSH, skip_solved=False), foreign(PUSH)
    rest = np.zeros(4, np.float32)
    seeds = [seed for seed in range(80) if (solved.restart(seed=seed), solved.advance(rest))[1].info["success"]]
    assert seeds
    for seed in seeds:
        passed_over.restart(seed=seed)
        start = passed_over.get_state()
        assert not passed_over.advance(rest).info["success"]
        passed_over.restart(seed=seed)
        np.testing.assert_array_equal(passed_over.get_state(), start)


def test_parts_of_the_observation_are_chosen_by_name() -> None:
    chosen = {"proprioception": ["observation[0:3]"], "environment_state": ["desired_goal", "observation[3:6]"]}
    env = foreign(PUSH, **chosen)
    env.restart(seed=0)
    np.testing.assert_allclose(env.agent_pos(), env.observed["observation"][:3], rtol=1e-6)
    expected = [env.observed["desired_goal"], env.observed["observation"][3:6]]
    np.testing.assert_array_equal(env.environment_state(), np.concatenate(expected))
    assert foreign(THERMOSTAT, proprioception=["room/now"]).agent_pos().shape == (1,)
    assert foreign(REACHER, proprioception=["[2:5]"]).agent_pos().shape == (3,)


def test_cameras_are_the_models_the_environments_own_or_images_in_the_observation() -> None:
    cameras = {"render": "external_camera_0"}
    env = foreign(PUSH, ("render",), 96, cameras=cameras)
    observation, _ = env.reset(seed=3)
    image = observation["pixels"]["render"]
    assert image.shape == (96, 96, 3)
    goal = (image[..., 0] > 150) & (image[..., 1] < 60) & (image[..., 2] < 60)
    assert goal.sum() > 3, "the mark of the goal is shown"
    state = env.get_state()
    env.render_camera("render", 64, 64)
    np.testing.assert_array_equal(env.get_state(), state)
    env.reset(seed=4)
    env.set_state(state)
    np.testing.assert_array_equal(env.observe()["pixels"]["render"], image)

    env = foreign(THERMOSTAT, ("render", "view"))
    env.restart(seed=0)
    drawn, seen = (env.render_camera(camera, 64, 64) for camera in ("render", "view"))
    assert drawn.shape == seen.shape == (64, 64, 3)
    assert drawn[..., 0].max() == 255 and drawn[..., 2].max() == 0
    assert seen[..., 2].max() == 200 and seen[..., 0].max() == 0
    with pytest.raises(UnknownNameError, match=r"camera 'above' is not registered; known: .*external_camera_0"):
        foreign(PUSH, ("above",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id": "FetchPush-v9", "modules": ["gymnasium_robotics"]}, r"cannot make 'FetchPush-v9': .*`v4`"),
        ({"id": "NoSuchThing-v0"}, "cannot make 'NoSuchThing-v0'.*name the modules that register it"),
        (
            {"id": "X-v0", "modules": ["no_such_package"]},
            "needs the module 'no_such_package'.*pip install no-such-package",
        ),
        ({"id": "CartPole-v1"}, r"acts in Discrete\(2\); only a bounded Box"),
        ({**PUSH, "kwargs": {"colour": 1}}, "cannot make 'FetchPush-v4'.*unexpected keyword argument 'colour'"),
        ({**PUSH, "proprioception": ["observed"]}, "'observed' is not in the observation; it holds 'achieved_goal'"),
        ({**PUSH, "proprioception": ["observation[0]"]}, "is malformed; write key"),
        ({**PUSH, "actions": [0, 7]}, "actions must be different indices from 0 to 3"),
        ({**PUSH, "state": "pickle"}, "state 'pickle' is unknown; use auto, mujoco or replay"),
        ({**THERMOSTAT, "state": "mujoco"}, "has no MuJoCo model and data; use state: replay"),
        ({**PUSH, "instrution": 1}, "arguments of backend 'gymnasium' do not fit: .*'instrution'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        foreign(arguments)
    assert "\n" not in str(caught.value)
