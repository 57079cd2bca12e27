"""Skills in the real simulator: where the hand ends up, what it holds, and what happens when things go wrong."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tests.envs.robosuite_scenes import robosuite_env
from vla_cl.envs.robosuite.env import RobosuiteEnv
from vla_cl.tasks.skills import (
    X_AXIS,
    Y_AXIS,
    Graspable,
    Hand,
    Plan,
    SkillExpert,
    SkillFailed,
    close_fingers,
    descend,
    fixed,
    grasp,
    place,
    reach,
    rotation_about,
)
from vla_cl.tasks.skills.motion import DOWN, UP, held_back

CUBE = Graspable("cube")


@pytest.fixture(scope="module")
def lift() -> RobosuiteEnv:
    return robosuite_env("Lift")


def run(env: RobosuiteEnv, plan: Plan[object]) -> object:
    """Follow a plan to its end; what it returns."""
    while True:
        try:
            action = next(plan)
        except StopIteration as end:
            return end.value
        assert action.shape == (7,) and action.dtype == np.float32 and np.abs(action).max() <= 1.0
        env.advance(action)


@pytest.mark.parametrize("yaw", [-1.5, 0.0, 2.0])
def test_reach_arrives_at_the_point_and_the_yaw(lift: RobosuiteEnv, yaw: float):
    lift.restart(seed=0)
    hand, goal = Hand(lift), np.array([0.05, 0.1, 0.95])
    assert run(lift, reach(hand, fixed(goal), attitude=yaw, tolerance=0.005, turn_tolerance=0.05))
    np.testing.assert_allclose(hand.position, goal, atol=0.005)
    assert abs(hand.yaw - yaw) < 0.05
    np.testing.assert_allclose(hand.rotation[:, 2], [0, 0, -1], atol=0.05)


def test_going_from_one_yaw_to_another_never_passes_through_pi(lift: RobosuiteEnv):
    lift.restart(seed=0)
    hand, goal = Hand(lift), np.array([0.0, 0.0, 1.0])
    run(lift, reach(hand, fixed(goal), attitude=-1.7))
    hand.attitude, yaws = 1.9, []  # the shorter way round would be the other one
    for _ in range(60):
        lift.advance(hand.toward(goal))
        yaws.append(hand.yaw)
    assert np.abs(yaws).max() < 2.0 and yaws[-1] > 1.8


def test_reach_follows_a_moving_point_and_gives_up_where_something_is_in_the_way(lift: RobosuiteEnv):
    lift.restart(seed=0)
    hand, started = Hand(lift), lift.elapsed_steps
    moving = lambda: np.array([0.0, -0.1 + 0.002 * min(lift.elapsed_steps, 80), 0.95])  # noqa: E731
    assert run(lift, reach(hand, moving, tolerance=0.008))
    assert np.linalg.norm(hand.position - moving()) < 0.008
    started = lift.elapsed_steps
    assert not run(lift, reach(hand, fixed(np.array([0.0, 0.2, 0.6]))))  # below the table
    assert lift.elapsed_steps - started < 70 and hand.position[2] > 0.79


def test_a_hand_faces_where_it_is_told(lift: RobosuiteEnv):
    hand = Hand(lift)
    rotation = hand.facing(np.array([0.0, -1.0, 0.0]), fingers=UP)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0)
    np.testing.assert_allclose(rotation[:, 2], [0, -1, 0], atol=1e-9)
    np.testing.assert_allclose(np.abs(rotation @ lift.gripper.finger_axis), [0, 0, 1], atol=1e-6)


def test_a_funnel_waits_until_it_is_above():
    np.testing.assert_allclose(held_back(np.array([0.0, 0.0, -0.1]), DOWN), [0, 0, -0.1])
    np.testing.assert_allclose(held_back(np.array([0.1, 0.0, -0.1]), DOWN), [0.1, 0, 0])
    part = held_back(np.array([0.01, 0.0, -0.1]), DOWN)
    assert part[0] == 0.01 and -0.1 < part[2] < 0.0
    np.testing.assert_allclose(held_back(np.array([0.1, 0.0, 0.05]), DOWN), [0.1, 0, 0.05])  # upwards at once


@pytest.mark.parametrize("angle", [-2.5, 0.3, 1.2])
def test_a_rotation_about_an_axis_turns_by_its_angle(angle: float):
    axis = np.array([2.0, -1.0, 2.0]) / 3.0
    rotation = rotation_about(axis, angle)
    np.testing.assert_allclose(rotation @ axis, axis)
    np.testing.assert_allclose(np.trace(rotation), 1 + 2 * np.cos(angle))
    np.testing.assert_allclose(rotation @ rotation_about(axis, -angle), np.eye(3), atol=1e-12)


@pytest.mark.parametrize("robot", ["Panda", "Sawyer", "UR5e", "Kinova3"])
def test_every_robot_grasps_the_cube_and_puts_it_elsewhere(robot: str):
    env = robosuite_env("Lift", robot=robot)
    for seed in range(3):
        env.restart(seed=seed)
        hand, goal = Hand(env), env.position("cube") + np.array([0.06, 0.08, 0.0])
        run(env, grasp(hand, CUBE))
        assert env.position("cube")[2] > 0.84
        run(env, place(hand, CUBE, fixed(goal)))
        np.testing.assert_allclose(env.position("cube")[:2], goal[:2], atol=0.015)
        assert env.position("cube")[2] < 0.83  # on the table, not in the hand
        assert hand.position[2] > 0.88 and not hand.closed


def test_a_heading_that_is_asked_for_is_reached(lift: RobosuiteEnv):
    slab = Graspable("cube", closes_along=(Y_AXIS,))
    for seed, heading in enumerate([np.pi / 2, np.pi, -0.4]):
        lift.restart(seed=seed)
        hand = Hand(lift)
        either_way = (heading, heading - np.pi)
        run(lift, grasp(hand, slab, headings=either_way))
        run(lift, place(hand, slab, fixed(np.array([0.05, 0.0, 0.82])), headings=either_way))
        off = (slab.heading(hand) - heading + np.pi / 2) % np.pi - np.pi / 2
        assert abs(off) < 0.15


def test_fingers_close_along_the_axes_of_the_object_and_keep_away_from_others():
    env = robosuite_env("Stack")
    crowded = 0
    for seed in range(20):
        env.restart(seed=seed)
        hand, cube = Hand(env), Graspable("cubeA")
        yaws = cube.yaws(hand)
        assert len(yaws) == 2
        sides = env.rotation("cubeA")[:, :2].T
        for yaw in yaws:
            fingers = hand.pointing_down(yaw) @ env.gripper.finger_axis
            assert np.abs(sides @ fingers).max() > 0.999
        if abs(yaws[0]) > abs(yaws[1]):  # the other cube is in the way of the nearer turn
            assert cube._room(hand, yaws[0]) > cube._room(hand, yaws[1])
            crowded += 1
    assert 0 < crowded < 10
    assert Graspable("cubeA", closes_along=(X_AXIS,)).yaws(hand)[0] in yaws


def test_what_is_not_there_fails_and_is_tried_again(lift: RobosuiteEnv):
    lift.restart(seed=0)
    beside = Graspable("cube", offset=(0.0, 0.12, 0.0))
    with pytest.raises(SkillFailed, match="cube did not come along in 2 attempts"):
        run(lift, grasp(Hand(lift), beside, attempts=2))


def test_an_object_that_is_lost_on_the_way_is_noticed(lift: RobosuiteEnv):
    lift.restart(seed=1)
    hand = Hand(lift)
    run(lift, grasp(hand, CUBE))
    plan = place(hand, CUBE, fixed(np.array([0.1, 0.15, 0.82])))
    with pytest.raises(SkillFailed, match="cube was lost on the way"):
        for step, action in enumerate(plan):
            lift.advance(np.array([*action[:6], -1.0 if step > 5 else 1.0], np.float32))


def test_an_expert_begins_its_plan_anew_after_a_failure_and_repeats_itself_for_a_seed(lift: RobosuiteEnv):
    begun = []

    def plan(hand: Hand) -> Plan[None]:
        begun.append(lift.elapsed_steps)
        yield from descend(hand, fixed(hand.position - [0, 0, 0.03]))
        if len(begun) == 1:
            raise SkillFailed("on purpose")
        yield from close_fingers(hand, 3)

    expert = SkillExpert(plan)
    episodes = []
    for seed in (0, 0, 1):
        begun.clear()
        lift.restart(seed=5)
        expert.reset(lift, np.random.default_rng(seed))
        actions = []
        for _ in range(30):
            actions.append(expert.act(lift))
            lift.advance(actions[-1])
        assert len(begun) >= 2
        episodes.append(np.array(actions))
    np.testing.assert_array_equal(episodes[0], episodes[1])
    assert not np.array_equal(episodes[0], episodes[2])


def test_an_expert_with_nothing_left_to_do_stays_where_it_is(lift: RobosuiteEnv):
    lift.restart(seed=0)
    expert = SkillExpert(lambda hand: (action for action in ()))
    expert.reset(lift, np.random.default_rng(0))
    np.testing.assert_array_equal(expert.act(lift)[:3], 0.0)


def test_an_expert_acts_only_where_it_was_reset(lift: RobosuiteEnv):
    expert = SkillExpert(partial(grasp, thing=CUBE))
    with pytest.raises(RuntimeError, match=r"call reset\(env, generator\)"):
        expert.act(lift)
