"""Skills for LIBERO's fixtures, in LIBERO's scenes: what they make true, how soon, and where they leave the hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest

import vla_cl
from vla_cl.envs.libero.bddl import Condition
from vla_cl.envs.libero.env import LiberoEnv
from vla_cl.envs.libero.predicates import holds
from vla_cl.errors import ConfigurationError
from vla_cl.tasks.libero_fixtures import close_part, open_part, push_onto, turn
from vla_cl.tasks.libero_handles import grip_yaw, handle_of, joint_of, leaning, opening_sign, shapes_of
from vla_cl.tasks.skills import Hand, Plan, SkillFailed

STORED, FRESH = 2_000_003, 11
WOODEN, WHITE = "wooden_cabinet_1", "white_cabinet_1"

CASES = [
    ("libero_goal/open_the_middle_drawer_of_the_cabinet", "open", f"{WOODEN}_middle_region"),
    ("libero_90/KITCHEN_SCENE1_open_the_bottom_drawer_of_the_cabinet", "open", f"{WOODEN}_bottom_region"),
    ("libero_90/KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet", "close", f"{WOODEN}_top_region"),
    ("libero_90/KITCHEN_SCENE4_close_the_bottom_drawer_of_the_cabinet", "close", f"{WHITE}_bottom_region"),
    ("libero_90/KITCHEN_SCENE7_open_the_microwave", "open", "microwave_1"),
    ("libero_90/KITCHEN_SCENE6_close_the_microwave", "close", "microwave_1"),
    ("libero_goal/turn_on_the_stove", "turnon", "flat_stove_1"),
    ("libero_90/KITCHEN_SCENE8_turn_off_the_stove", "turnoff", "flat_stove_1"),
]


@pytest.fixture(scope="module")
def build(libero_root: Path) -> Callable[[str], LiberoEnv]:
    """The environment of a task, built once."""
    built: dict[str, LiberoEnv] = {}

    def make(task: str) -> LiberoEnv:
        if task not in built:
            built[task] = cast(LiberoEnv, vla_cl.make(task).unwrapped)
        return built[task]

    return make


def skill(hand: Hand, env: LiberoEnv, predicate: str, name: str) -> Plan[None]:
    if predicate in ("turnon", "turnoff"):
        return turn(hand, env, name, on=predicate == "turnon")
    return (open_part if predicate == "open" else close_part)(hand, env, name)


def run(env: LiberoEnv, plan: Plan[None], condition: Condition) -> int | None:
    """Follow a plan to its end; the step after which the condition first held."""
    reached = None
    for step, action in enumerate(plan, start=1):
        assert action.shape == (7,) and np.abs(action).max() <= 1.0
        env.simulate(action)
        if reached is None and holds(env, condition):
            reached = step
    return reached


@pytest.mark.parametrize("seed", [STORED, FRESH], ids=["stored", "fresh"])
@pytest.mark.parametrize(("task", "predicate", "name"), CASES)
def test_a_fixture_is_worked_in_time_and_left_in_peace(
    build: Callable[[str], LiberoEnv], task: str, predicate: str, name: str, seed: int
):
    env = build(task)
    env.reset(seed=seed)
    condition = Condition(predicate, (name,))
    thing = env.parts[name].parent if name in env.parts else name
    others = [joint for joint in env.joints_of(thing) if joint not in env.joints_of(name)]
    before = [env.joint(joint) for joint in others]
    assert not holds(env, condition)

    hand = Hand(env, pace=0.9)
    reached = run(env, skill(hand, env, predicate, name), condition)

    assert reached is not None and reached <= 120
    assert not env.held(thing)
    np.testing.assert_allclose([env.joint(joint) for joint in others], before, atol=0.005)


@pytest.mark.parametrize("seed", [STORED, FRESH], ids=["stored", "fresh"])
def test_a_plate_is_pushed_to_its_region(build: Callable[[str], LiberoEnv], seed: int):
    env = build("libero_goal/push_the_plate_to_the_front_of_the_stove")
    env.reset(seed=seed)
    goal = ("plate_1", "main_table_stove_front_region")
    reached = run(env, push_onto(Hand(env), env, *goal), Condition("on", goal))
    assert reached is not None and reached <= 200
    assert env.rotation("plate_1")[2, 2] > 0.95  # it lies flat


def test_one_drawer_is_closed_and_another_one_opened_by_the_same_hand(build: Callable[[str], LiberoEnv]):
    env = build("libero_90/KITCHEN_SCENE4_close_the_bottom_drawer_of_the_cabinet")
    env.reset(seed=STORED)
    hand = Hand(env)
    bottom, top = (f"{WHITE}_{level}_region" for level in ("bottom", "top"))
    for predicate, name in (("close", bottom), ("open", top), ("close", top)):
        assert run(env, skill(hand, env, predicate, name), Condition(predicate, (name,))) is not None
    assert holds(env, Condition("close", (bottom,))) and holds(env, Condition("close", (top,)))


def test_a_drawer_that_is_stuck_is_given_up(build: Callable[[str], LiberoEnv]):
    env = build("libero_goal/open_the_middle_drawer_of_the_cabinet")
    env.reset(seed=STORED)
    slot = int(env.model.joint(f"{WOODEN}_middle_level").dofadr[0])
    loose = float(env.model.dof_frictionloss[slot])
    env.model.dof_frictionloss[slot] = 1e3
    try:
        with pytest.raises(SkillFailed):
            run(
                env,
                open_part(Hand(env), env, f"{WOODEN}_middle_region"),
                Condition("open", (f"{WOODEN}_middle_region",)),
            )
    finally:
        env.model.dof_frictionloss[slot] = loose


@pytest.mark.parametrize("level", ["top", "middle", "bottom"])
def test_a_drawers_bar_is_found_before_its_front_and_within_its_width(build: Callable[[str], LiberoEnv], level: str):
    env = build("libero_goal/open_the_middle_drawer_of_the_cabinet")
    env.reset(seed=FRESH)
    name = f"{WOODEN}_{level}_region"
    joint = joint_of(env, name)
    out = opening_sign(env, name) * env.joint_axis(joint)[1]
    bar = handle_of(env, joint, out)
    across = np.cross([0.0, 0.0, 1.0], out)
    offset = bar.centre() - env.site_pose(name)[0]
    assert offset @ out > 0.09 and abs(offset @ across) < 0.02 and abs(offset[2]) < 0.03
    np.testing.assert_allclose([bar.half(across), bar.half(out)], [0.0445, 0.0077], atol=2e-4)  # the model's numbers
    assert all(float((shape.centre() - bar.centre()) @ out) <= 0.0 for shape in shapes_of(env, joint))


@pytest.mark.parametrize("turn_by", [-2.0, -1.3, 0.0, 0.6, 2.0])
@pytest.mark.parametrize("heading", np.linspace(-1.5, 1.5, 5))
def test_a_wrist_stays_within_its_range_while_it_turns(
    build: Callable[[str], LiberoEnv], heading: float, turn_by: float
):
    env = build("libero_goal/turn_on_the_stove")
    hand = Hand(env)
    across = np.array([np.cos(heading), np.sin(heading), 0.0])
    yaw = grip_yaw(hand, across, turn_by)
    fingers = hand.pointing_down(yaw) @ env.gripper.finger_axis
    np.testing.assert_allclose(abs(fingers @ across), 1.0, atol=1e-6)
    for angle in (yaw, yaw + turn_by):  # joint 7 is at pi / 4 in the nominal start, and turns against the yaw
        assert -2.8973 < np.pi / 4 - angle < 2.8973


def test_a_hand_that_leans_points_between_down_and_ahead(build: Callable[[str], LiberoEnv]):
    hand = Hand(build("libero_goal/turn_on_the_stove"))
    ahead = np.array([0.6, -0.8, 0.0])
    rotation = leaning(hand, 0.3, ahead, 0.4)
    np.testing.assert_allclose(rotation[:, 2], np.sin(0.4) * ahead - np.cos(0.4) * np.array([0, 0, 1]), atol=1e-6)


def test_what_neither_opens_nor_turns_is_refused(build: Callable[[str], LiberoEnv]):
    env = build("libero_goal/turn_on_the_stove")
    hand = Hand(env)
    with pytest.raises(ConfigurationError, match="wine_rack_1_top_region"):
        next(open_part(hand, env, "wine_rack_1_top_region"))
    with pytest.raises(ConfigurationError, match="cannot be turned on or off"):
        next(turn(hand, env, f"{WOODEN}_top_region", on=True))
