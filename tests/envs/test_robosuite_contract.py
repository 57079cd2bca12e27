"""The backend "robosuite" as an environment: its contract, what it shows, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from tests.envs.robosuite_scenes import moderate_actions, robosuite_env
from vla_cl.envs.robosuite.env import RobosuiteEnv
from vla_cl.errors import ConfigurationError, UnknownNameError, VlaClError


@pytest.fixture(scope="module")
def lift() -> RobosuiteEnv:
    env = robosuite_env(cameras=None, privileged=True)
    env.restart(seed=0)
    return env


def test_it_keeps_gymnasiums_contract(lift: RobosuiteEnv):
    check_env(lift, skip_render_check=True)


def test_observations_have_the_documented_sizes(lift: RobosuiteEnv):
    observation, info = lift.reset(seed=3)
    assert info == {"success": False}
    assert set(observation["pixels"]) == {"agentview", "wrist"}
    assert observation["agent_pos"].shape == (7,)
    assert observation["environment_state"].shape == (69,)
    np.testing.assert_array_equal(observation["environment_state"][:7], observation["agent_pos"])
    np.testing.assert_allclose(observation["environment_state"][7:10], lift.position("cube"), atol=1e-7)
    assert not observation["environment_state"][14:].any()


def test_an_image_shows_the_cube_where_the_camera_sees_it(lift: RobosuiteEnv):
    """The cube's red pixels lie around the pinhole projection of its position: neither upside down nor mirrored."""
    for seed in range(3):
        lift.restart(seed=seed)
        image = lift.render_camera("agentview", 256, 256).astype(int)
        red = (image[..., 0] > 40) & (image[..., 0] > 2 * image[..., 1]) & (image[..., 0] > 2 * image[..., 2])
        seen = np.argwhere(red).mean(axis=0)
        np.testing.assert_allclose(seen, projection(lift, lift.position("cube"), 256), atol=8)


def projection(env: RobosuiteEnv, point: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Row and column of a point (3,) in a square picture of agentview."""
    camera = env.model.camera("agentview").id
    right, up, back = env.data.cam_xmat[camera].reshape(3, 3).T
    away = point - env.data.cam_xpos[camera]
    focal = 0.5 * size / np.tan(0.5 * np.deg2rad(env.model.cam_fovy[camera]))
    depth = -away @ back
    return np.array([0.5 * size - focal * (away @ up) / depth, 0.5 * size + focal * (away @ right) / depth])


def test_collision_shapes_are_not_drawn(lift: RobosuiteEnv):
    lift.restart(seed=1)
    before = {camera: lift.render_camera(camera, 64, 64) for camera in lift.cameras}
    assert all(image.std() > 10 for image in before.values())
    collision, colours = lift.model.geom_group == 0, lift.model.geom_rgba.copy()
    lift.model.geom_rgba[collision] = (1.0, 0.0, 1.0, 1.0)
    for camera, image in before.items():
        np.testing.assert_array_equal(lift.render_camera(camera, 64, 64), image)
    lift.model.geom_rgba[:] = colours


def test_actions_move_the_hand_along_their_axes_and_the_fingers(lift: RobosuiteEnv):
    for axis in range(3):
        lift.restart(seed=0)
        start, action = lift.gripper.position, np.zeros(7, np.float32)
        action[axis], action[6] = 0.5, -1.0
        for _ in range(10):
            lift.advance(action)
        moved = lift.gripper.position - start
        assert moved[axis] > 0.03 and np.abs(np.delete(moved, axis)).max() < 0.015
    wide = lift.gripper.opening
    for _ in range(15):
        lift.advance(np.array([0, 0, 0, 0, 0, 0, 1], np.float32))
    assert lift.gripper.opening < 0.3 * wide


def test_turning_shows_in_the_rotation_vector(lift: RobosuiteEnv):
    lift.restart(seed=0)
    before = lift.agent_pos()[3:6]
    for _ in range(15):
        lift.advance(np.array([0, 0, 0, 0, 0, 0.5, 0], np.float32))
    change = lift.agent_pos()[3:6] - before
    assert change[2] > 0.3 and np.abs(change[:2]).max() < 0.1


def test_objects_that_a_task_does_not_use_are_zero_in_the_state():
    env = robosuite_env("PickPlaceCan")
    for action in moderate_actions(60):  # while they fall to the floor, far away
        env.advance(action)
    slots = env.environment_state()[7:63].reshape(8, 7)
    used = dict(zip(env.objects, slots, strict=True))
    assert not used["Milk"].any() and not used["Cereal"].any()
    np.testing.assert_array_equal(used["Can"][:3], env.position("Can"))
    assert np.abs(slots).max() < 1.5


@pytest.mark.parametrize("robot", ["Sawyer", "IIWA", "Jaco", "XArm7"])
def test_other_robots_move_and_know_their_fingers(robot: str):
    env = robosuite_env(robot=robot)
    env.restart(seed=0)
    start = env.gripper.position
    for _ in range(20):
        env.advance(np.array([0, -0.8, 0, 0, 0, 0, -1], np.float32))
    assert env.gripper.position[1] < start[1] - 0.1  # Sawyer's first joint is stuck in robosuite itself
    assert env.gripper.opening > 0.04
    np.testing.assert_allclose(np.linalg.norm(env.gripper.finger_axis), 1.0)


def test_the_wiping_tool_has_no_fingers_and_the_dirt_is_counted():
    env = robosuite_env("Wipe")
    env.restart(seed=0)
    assert env.gripper.opening == 0.0
    assert env.dirt().shape == (100, 3)
    assert env.action_space.shape == (7,)
    for action in moderate_actions(5):
        env.advance(action)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"environment": "Lft"}, UnknownNameError, "robosuite environment 'Lft'.*Lift"),
        ({"robot": "Pandas"}, UnknownNameError, "robot 'Pandas'.*Panda"),
        ({"gripper": "PandaGriper"}, UnknownNameError, "gripper 'PandaGriper'.*PandaGripper"),
        ({"stepper": "quick"}, UnknownNameError, "stepper 'quick'"),
        ({"cameras": ("agentveiw",)}, UnknownNameError, "camera 'agentveiw'.*agentview"),
        ({"action_delay": -1}, ConfigurationError, "action_delay must be 0 or more"),
        ({"options": {"seed": 3}}, ConfigurationError, "option 'seed' of Lift is set by the backend"),
        ({"options": {"cube_size": 3}}, ConfigurationError, "Lift cannot be built.*cube_size"),
    ],
)
def test_arguments_that_cannot_be_used_are_named_in_one_line(
    arguments: dict[str, Any], error: type[VlaClError], message: str
):
    with pytest.raises(error, match=message) as caught:
        robosuite_env(**arguments)
    assert "\n" not in str(caught.value)
