"""The same numbers: as robosuite's own loop, after another history, from a saved state, in another process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.envs.continuation import trajectory
from tests.envs.robosuite_scenes import expert_actions, moderate_actions, robosuite_env
from vla_cl.envs.process import WorkerProcess
from vla_cl.envs.robosuite.build import build_raw, reseed
from vla_cl.envs.robosuite.env import RobosuiteEnv
from vla_cl.errors import SimulationError

ENVIRONMENTS = {"Lift": "robosuite/lift", "Door": "robosuite/door", "Wipe": "robosuite/wipe"}


@pytest.fixture(scope="module")
def environments() -> dict[str, RobosuiteEnv]:
    return {name: robosuite_env(name) for name in ENVIRONMENTS}


@pytest.fixture(scope="module")
def other_process() -> Iterator[WorkerProcess]:
    process = WorkerProcess("tests.envs.robosuite_scenes")
    process.wait_until_ready()
    yield process
    process.end()


def ask(process: WorkerProcess, verb: str, request: tuple[Any, ...]) -> Any:
    process.send(verb, request)
    error, answer = process.receive()
    assert error is None
    return answer


def differences(
    env: RobosuiteEnv, other: RobosuiteEnv, actions: NDArray[np.float32], nudge: float = 0.0
) -> tuple[float, float]:
    """Largest differences between positions over two episodes: of the arm's joints and the object, of the fingers.

    `nudge` is added to the other's first joint at the start, in radians.
    """
    arm = len(env._control.posture)
    seen = []
    for each, offset in ((env, 0.0), (other, nudge)):
        each.restart(seed=4)
        each.data.qpos[0] += offset
        positions = []
        for action in actions:
            each.advance(action)
            positions.append(each.data.qpos.copy())
        seen.append(np.array(positions))
    apart = np.abs(seen[0] - seen[1])
    fingers = apart[:, arm:-7]
    return float(np.delete(apart, np.s_[arm : arm + fingers.shape[1]], axis=1).max()), float(fingers.max())


@pytest.mark.parametrize("robot", ["Panda", "Sawyer", "UR5e", "Kinova3"])
def test_the_fast_stepper_computes_what_robosuites_own_loop_computes(robot: str):
    fast, stock = robosuite_env(robot=robot), robosuite_env(robot=robot, stepper="robosuite")
    fast.restart(seed=4)
    stock.restart(seed=4)
    np.testing.assert_array_equal(fast.get_state(), stock.get_state())
    arm_and_object, fingers = differences(fast, stock, moderate_actions(50))
    assert arm_and_object < 1e-6
    if robot in ("Panda", "Sawyer"):
        assert fingers < 1e-6
        fast.restart(seed=4)
        actions = expert_actions(fast, "robosuite/lift", 100)
        assert len(actions) < 100  # it has lifted the cube
        assert max(differences(fast, stock, actions)) < 1e-5  # contact amplifies rounding
    else:  # the linkage of Robotiq's fingers magnifies rounding, whoever computes it
        _, magnified = differences(stock, stock, moderate_actions(50), nudge=1e-13)
        assert fingers < 10 * magnified < 1e-3


@pytest.mark.parametrize(("environment", "robot"), [("Lift", "Panda"), ("Stack", "Kinova3")])
def test_the_stock_stepper_is_robosuite_stepped_by_hand(environment: str, robot: str):
    env = robosuite_env(environment, robot=robot, stepper="robosuite")
    env.restart(seed=8)
    plain = build_raw(environment, robot, "default", rebuild=False, options={})
    reseed(plain, 8)
    plain.reset()
    for controller in plain.robots[0].part_controllers.values():
        controller.new_update = True  # its first torque would come from before the objects were placed
    for action in moderate_actions(40):
        env.advance(action)
        plain.step(action.astype(np.float64))
        np.testing.assert_array_equal(env.data.qpos, plain.sim.data.qpos)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_seed_fixes_the_start_whatever_happened_before_and_in_another_process(
    name: str, environments: dict[str, RobosuiteEnv], other_process: WorkerProcess
):
    env = environments[name]
    env.restart(seed=7)
    beginning, seen = env.get_state(), env.environment_state()
    for action in moderate_actions(25):
        env.advance(action)
    env.restart(seed=8)
    assert not np.array_equal(env.environment_state(), seen)
    env.restart(seed=7)
    np.testing.assert_array_equal(env.get_state(), beginning)
    np.testing.assert_array_equal(env.environment_state(), seen)
    np.testing.assert_array_equal(ask(other_process, "start", (name, 7)), beginning)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_saved_state_continues_bit_for_bit(
    name: str, environments: dict[str, RobosuiteEnv], other_process: WorkerProcess
):
    env = environments[name]
    env.restart(seed=3)
    expert_actions(env, ENVIRONMENTS[name], 45)  # a cube in the hand, a handle half turned, a table half wiped
    if name == "Wipe":
        assert 0 < len(env.dirt()) < 100
    middle, actions = env.get_state(), moderate_actions(15, seed=1)
    expected = trajectory(env, actions)
    env.restart(seed=5)
    env.set_state(middle)
    np.testing.assert_equal(trajectory(env, actions), expected)
    np.testing.assert_equal(ask(other_process, "continue", (name, middle, actions)), expected)


@pytest.mark.parametrize("name", ["Lift", "Door"])
def test_a_recorded_episode_replays_bit_for_bit(name: str, environments: dict[str, RobosuiteEnv]):
    env = environments[name]
    env.restart(seed=12)
    first = env.get_state()
    actions = expert_actions(env, ENVIRONMENTS[name], 200)
    last = env.get_state()
    env.restart(seed=1)
    env.set_state(first)
    outcomes = [env.advance(action) for action in actions]
    np.testing.assert_array_equal(env.get_state(), last)
    assert outcomes[-1].terminated and not any(outcome.terminated for outcome in outcomes[:-1])


def test_delayed_actions_are_part_of_the_state_and_take_effect_late(environments: dict[str, RobosuiteEnv]):
    late, actions = robosuite_env(action_delay=2), moderate_actions(20)
    prompt = environments["Lift"]
    late.restart(seed=2)
    prompt.restart(seed=2)
    middle = np.empty(0)
    for index, action in enumerate([*actions, *np.zeros((2, 7), np.float32)]):
        if index == 10:
            middle = late.get_state()
        late.advance(action)
    for action in [*np.zeros((2, 7), np.float32), *actions]:
        prompt.advance(action)
    np.testing.assert_array_equal(late.data.qpos, prompt.data.qpos)
    final = late.get_state()
    late.restart(seed=3)
    late.set_state(middle)
    for action in [*actions[10:], *np.zeros((2, 7), np.float32)]:
        late.advance(action)
    np.testing.assert_array_equal(late.get_state(), final)


def test_compiling_the_model_anew_at_each_reset_is_a_function_of_the_seed_too():
    env = robosuite_env(rebuild=True)

    def episode(seed: int) -> tuple[float, NDArray[np.float64]]:
        env.restart(seed=seed)
        for action in moderate_actions(10):
            env.advance(action)
        return float(env.model.geom("cube_g0").size[0]), env.get_state()

    (size, state), (other_size, _), (size_again, state_again) = episode(1), episode(2), episode(1)
    assert size == size_again
    np.testing.assert_array_equal(state, state_again)
    assert size != other_size  # robosuite draws the cube's size when it compiles


def test_a_state_of_another_task_is_refused(environments: dict[str, RobosuiteEnv]):
    with pytest.raises(SimulationError, match=r"a state of Lift has \d+ numbers, got shape"):
        environments["Lift"].set_state(environments["Wipe"].get_state())
