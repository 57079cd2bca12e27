"""Declared scenes behind the environment contract: seeds, states, robots, dynamics, cameras, delays."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tests.envs.tabletop_scenes import put, set_joint, tabletop, thing, wait
from vla_cl.envs import EnvironmentSpec, ObservationOptions, make_environment
from vla_cl.envs.tabletop.env import THING_SLOTS, TabletopEnv
from vla_cl.envs.tabletop.world import TABLE_HEIGHT, look_at
from vla_cl.errors import ConfigurationError, SimulationError, UnknownNameError

ROOM = {"x": [-0.15, 0.2], "y": [-0.3, 0.3], "yaw": [-1.5, 1.5]}
THINGS: dict[str, Any] = {
    "red": {"kind": "cube", "colour": "red", "region": ROOM},
    "can": {"kind": "can", "colour": "blue", "region": ROOM},
    "cabinet": {"kind": "drawer", "region": {"x": [0.0, 0.2], "y": [-0.45, -0.4], "yaw": -1.57}, "start": [0, 0.05]},
    "knob": {"kind": "knob", "region": {"x": [0.0, 0.2], "y": [0.38, 0.45], "yaw": [-1, 1]}},
}
PAIR = {"cube": thing("cube", 0.0, 0.1), "box": thing("box", 0.1, -0.2)}
GOAL = ["open(cabinet)", "not near(red, can)"]


@pytest.fixture(scope="module")
def first() -> TabletopEnv:
    return tabletop(THINGS, GOAL)


@pytest.fixture(scope="module")
def second() -> TabletopEnv:
    return tabletop(THINGS, GOAL)


@pytest.fixture
def env(first: TabletopEnv) -> Iterator[TabletopEnv]:
    first.restart(seed=0)
    yield first


def actions(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 7)).astype(np.float32)


def test_gymnasiums_checker_has_nothing_to_say():
    scene = {"things": THINGS, "goal": GOAL}
    spec = EnvironmentSpec(
        "tabletop", {"scene": scene}, 50, observation=ObservationOptions(("agentview",), 64, privileged=True)
    )
    name = "vla_cl_tests/tabletop-v0"
    gymnasium.register(name, entry_point=make_environment, kwargs={"spec": spec})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", ".*infinity.*")  # positions in metres have no bounds
            check_env(gymnasium.make(name, render_mode="rgb_array").unwrapped)
    finally:
        gymnasium.registry.pop(name)


# --- seeds and states ------------------------------------------------------------------------------------------

HASHED = """
import hashlib, json, sys
import numpy as np
from tests.envs.tabletop_scenes import tabletop
from tests.envs.test_tabletop_env import GOAL, THINGS, actions
env = tabletop(THINGS, GOAL)
env.restart(seed=5)
for action in actions(5):
    env.advance(action)
print(hashlib.sha256(env.get_state().tobytes()).hexdigest())
"""


def test_a_seed_fixes_everything_in_this_process_and_in_another(first: TabletopEnv, second: TabletopEnv):
    digests = []
    for env, before in ((first, 1), (first, 2), (second, 3)):
        env.restart(seed=before)
        wait(env, 0.2)
        env.restart(seed=5)
        for action in actions(5):
            env.advance(action)
        digests.append(hashlib.sha256(env.get_state().tobytes()).hexdigest())
    other = subprocess.run([sys.executable, "-c", HASHED], capture_output=True, text=True, timeout=120, check=True)
    assert digests == [other.stdout.split()[-1]] * 3


def test_a_saved_state_goes_on_bit_for_bit_in_another_environment(first: TabletopEnv, second: TabletopEnv):
    first.restart(seed=3)
    for action in actions(8):
        first.advance(action)
    saved, expected = first.get_state(), []
    for action in actions(8, seed=1):
        first.advance(action)
        expected.append(first.get_state())
    second.restart(seed=4)
    assert np.abs(second.pose("cabinet")[0] - first.pose("cabinet")[0]).max() > 0.001, "fixtures stand elsewhere"
    for env in (second, first):
        env.set_state(saved)
        for action, state in zip(actions(8, seed=1), expected, strict=True):
            env.advance(action)
            np.testing.assert_array_equal(env.get_state(), state)
    np.testing.assert_array_equal(second.pose("cabinet")[0], first.pose("cabinet")[0])
    np.testing.assert_array_equal(second.pose("knob")[1], first.pose("knob")[1])
    np.testing.assert_array_equal(second.environment_state(), first.environment_state())


def test_a_state_leaves_nothing_for_the_next_reset(env: TabletopEnv, second: TabletopEnv):
    start = env.get_state()
    second.restart(seed=9)
    env.set_state(second.get_state())
    wait(env, 0.2)
    env.restart(seed=0)
    np.testing.assert_array_equal(env.get_state(), start)


def test_a_state_of_another_scene_is_refused(env: TabletopEnv):
    with pytest.raises(SimulationError, match="numbers, got shape"):
        env.set_state(np.zeros(11))


# --- goals and observations ------------------------------------------------------------------------------------


def test_success_is_all_conditions_at_once_and_information_tells_them_apart(env: TabletopEnv):
    still = np.zeros(7, np.float32)
    put(env, "red", (0.1, -0.1, 0.02))
    put(env, "can", (0.1, 0.0, 0.03))
    reward, terminated, _, info = env.advance(still)
    assert info["conditions"] == {"open(cabinet)": False, "not near(red, can)": False}
    assert (reward, terminated, info["success"]) == (0.0, False, False)
    put(env, "can", (0.1, 0.28, 0.03))
    reward, terminated, _, info = env.advance(still)
    assert info["conditions"] == {"open(cabinet)": False, "not near(red, can)": True} and not terminated
    set_joint(env, "cabinet", 0.15)
    reward, terminated, truncated, info = env.advance(still)
    assert info["conditions"] == {"open(cabinet)": True, "not near(red, can)": True}
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)


def test_the_privileged_state_holds_every_thing_and_every_joint(env: TabletopEnv):
    state = env.environment_state()
    assert state.shape == (7 + 7 * THING_SLOTS + 6,)
    for index, name in enumerate(THINGS):
        pose = state[7 + 7 * index :][:7]
        np.testing.assert_array_equal(pose[:3] - [0, 0, TABLE_HEIGHT], env.pose(name)[0])
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, pose[3:])
        np.testing.assert_allclose(rotation.reshape(3, 3), env.pose(name)[1], atol=1e-12)
    np.testing.assert_array_equal(state[7 + 7 * len(THINGS) : -6], 0)
    np.testing.assert_array_equal(state[-6:], [env.joint("cabinet"), env.joint("knob"), 0, 0, 0, 0])


def test_more_things_than_the_privileged_state_holds_are_refused():
    things = {f"cube_{k}": thing("cube", 0.1 * (k % 4), 0.08 * (k // 4)) for k in range(THING_SLOTS + 1)}
    with pytest.raises(ConfigurationError, match="room for 12 things, the scene has 13; use fewer"):
        tabletop(things, "on(cube_0, cube_1)", privileged=True)


# --- arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("robot", ["Panda", "Sawyer", "UR5e", "Kinova3"])
def test_every_robot_stands_free_and_moves(robot: str):
    env = tabletop(PAIR, "on(cube, box)", robot=robot)
    env.restart(seed=0)
    mujoco.mj_forward(env.model, env.data)
    assert not env.held("cube") and not env.held("box")
    height = env.gripper.position[2]
    wait(env, 0.5, np.array([0, 0, 1, 0, 0, 0, -1], np.float32))
    assert 0.05 < env.gripper.position[2] - height < 0.6
    env.close()


@pytest.mark.parametrize("robot", ["Panda", "Sawyer"])
def test_friction_follows_its_factor_in_whatever_touches(robot: str):
    usual, slippery = (tabletop(PAIR, "on(cube, box)", robot=robot, dynamics={"friction": f}) for f in (1.0, 0.5))
    touching = (usual.model.geom_contype > 0) | (usual.model.geom_conaffinity > 0)
    touching &= usual.model.geom_bodyid > 0  # all but the floor
    halves = 0.5 * usual.model.geom_friction[touching, 0]
    np.testing.assert_allclose(slippery.model.geom_friction[touching, 0], halves, rtol=1e-6)
    np.testing.assert_array_equal(slippery.model.geom_friction[:, 1:], usual.model.geom_friction[:, 1:])
    for env, moves in ((usual, False), (slippery, True)):
        env.restart(seed=0)
        wait(env, 0.2)
        start = env.pose("cube")[0]
        weight = 9.81 * float(env.model.body("cube").mass[0])
        env.data.xfrc_applied[env.model.body("cube").id, 1] = 0.7 * weight
        wait(env, 0.4)
        assert bool(np.linalg.norm(env.pose("cube")[0] - start) > 0.05) is moves, "coefficients are 1 and a half"
        env.close()


def test_masses_and_damping_follow_their_factors(first: TabletopEnv):
    shifted = tabletop(THINGS, GOAL, dynamics={"mass": 3.0, "damping": 2.5})
    for name, item in first.items.items():
        body = first.model.body(name).id
        assert shifted.model.body_subtreemass[body] == pytest.approx(3 * first.model.body_subtreemass[body], rel=1e-3)
        if item.mechanism is not None:
            joint = int(first.model.joint(f"{name}_{item.mechanism.joint}").dofadr[0])
            for values in ("dof_damping", "dof_frictionloss"):
                ratio = getattr(shifted.model, values)[joint] / getattr(first.model, values)[joint]
                assert ratio == pytest.approx(2.5), (name, values)
    robot = [body for body in range(first.model.nbody) if first.model.body(body).name.startswith("robot0_")]
    np.testing.assert_array_equal(shifted.model.body_mass[robot], first.model.body_mass[robot])


def test_a_delayed_action_acts_later_and_nothing_else_changes(first: TabletopEnv):
    delayed = tabletop(THINGS, GOAL, action_delay=2)
    sequence = actions(6)
    delayed.restart(seed=1)
    for action in sequence:
        delayed.advance(action)
    first.restart(seed=1)
    for action in (np.zeros(7, np.float32), np.zeros(7, np.float32), *sequence[:4]):
        first.advance(action)
    np.testing.assert_array_equal(delayed.data.qpos, first.data.qpos)
    np.testing.assert_array_equal(delayed.data.qvel, first.data.qvel)


def test_a_camera_is_where_it_was_declared_and_looks_at_its_target():
    position, target = (0.9, 0.3, 0.6), (0.05, -0.1, 0.0)
    camera = {"position": position, "target": target, "field_of_view": 50}
    env = tabletop(PAIR, "on(cube, box)", camera=camera)
    seen = env.data.camera("agentview")
    np.testing.assert_allclose(seen.xpos, np.add(position, [0, 0, TABLE_HEIGHT]), atol=1e-6)
    right, up, backwards = seen.xmat.reshape(3, 3).T
    way = np.subtract(target, position) / np.linalg.norm(np.subtract(target, position))
    np.testing.assert_allclose(-backwards, way, atol=1e-6)
    assert abs(right[2]) < 1e-6 and right[1] > 0, "the horizon is level, and +y is to the right"
    assert up[2] > 0.3
    assert env.model.camera("agentview").fovy[0] == 50


def test_a_camera_that_looks_straight_down_has_what_is_behind_on_top():
    quaternion, rotation = look_at(np.array([0.1, 0.2, 1.0]), np.array([0.1, 0.2, 0.0])), np.empty(9)
    mujoco.mju_quat2Mat(rotation, quaternion)
    np.testing.assert_allclose(rotation.reshape(3, 3).T, [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-9)


def test_left_right_behind_and_in_front_are_the_pictures():
    spots = {"red": (0.0, -0.2), "green": (0.0, 0.2), "blue": (-0.2, 0.0), "yellow": (0.2, 0.0)}
    things = {name: thing("ball", *spot, colour=name, options={"radius": 0.025}) for name, spot in spots.items()}
    env = tabletop(things | {"box": thing("box", -0.3, -0.4)}, "near(red, box)", cameras=("agentview",))
    image = env.reset(seed=0)[0]["pixels"]["agentview"].astype(int)
    masks = {
        "red": (image[..., 0] > 90) & (image[..., 1] < 60) & (image[..., 2] < 60),
        "green": (image[..., 1] > 70) & (image[..., 0] < 60) & (image[..., 2] < 90),
        "blue": (image[..., 2] > 110) & (image[..., 0] < 60),
        "yellow": (image[..., 0] > 120) & (image[..., 1] > 100) & (image[..., 2] < 60),
    }
    rows, columns = (
        {name: float(np.argwhere(mask)[:, axis].mean()) for name, mask in masks.items()} for axis in (0, 1)
    )
    assert columns["red"] < columns["blue"] - 5 < columns["green"] - 10
    assert rows["blue"] < rows["red"] - 3 < rows["yellow"] - 6


def test_what_the_backend_cannot_take_is_told():
    with pytest.raises(UnknownNameError, match=r"robot 'Pando' .* did you mean 'Panda'"):
        tabletop(PAIR, "on(cube, box)", robot="Pando")
    with pytest.raises(ConfigurationError, match="action_delay must be 0 or more"):
        tabletop(PAIR, "on(cube, box)", action_delay=-1)
    with pytest.raises(ConfigurationError, match=r"arguments of backend 'tabletop' do not fit: .*wind"):
        tabletop(PAIR, "on(cube, box)", wind=3)
