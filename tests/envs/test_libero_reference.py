"""LIBERO's scenes, states, predicates and motion, number for number as hf-libero 0.1.4 has them on robosuite 1.4.

`benchmarks/peers/libero_reference.py` wrote the numbers down, in an environment of hf-libero's own, and says what they
are. A few tasks stand for all; with VLA_CL_LIBERO_EVERY_TASK=1 all 130 are compared, which takes five minutes.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

from vla_cl.envs import EnvironmentSpec, ObservationOptions, make_environment
from vla_cl.envs.libero.env import LiberoEnv

FILE = Path(__file__).with_name("libero_reference.npz")
GRID = 8192
STORED = (0, 49)
FIRST_SEED = 10**6  # of the stored initial states, away from the seeds that are compared

CHOSEN = (
    "libero_10/KITCHEN_SCENE4_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet_and_close_it",
    "libero_10/KITCHEN_SCENE8_put_both_moka_pots_on_the_stove",
    "libero_10/LIVING_ROOM_SCENE5_put_the_white_mug_on_the_left_plate_and_put_the_yellow_and_white_mug_on_the_right_plate",
    "libero_10/STUDY_SCENE1_pick_up_the_book_and_place_it_in_the_back_compartment_of_the_caddy",
    "libero_90/KITCHEN_SCENE6_close_the_microwave",
    "libero_90/KITCHEN_SCENE8_turn_off_the_stove",
    "libero_goal/open_the_middle_drawer_of_the_cabinet",
    "libero_goal/push_the_plate_to_the_front_of_the_stove",
    "libero_object/pick_up_the_milk_and_place_it_in_the_basket",
    "libero_spatial/pick_up_the_black_bowl_in_the_top_drawer_of_the_wooden_cabinet_and_place_it_on_the_plate",
)
"""All workspaces, fixtures and predicates; things put into drawers and onto things; joints that are drawn."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Reference:
    """What is known of one task; `benchmarks/peers/libero_reference.py` says what the arrays are."""

    joints: list[str]
    bodies: list[str]
    goal: list[list[str]]
    hinges: list[str]
    objects: list[str]
    arrays: dict[str, Array]


@functools.cache
def references() -> dict[str, Reference]:
    with np.load(FILE) as file:
        stored = {name: file[name] for name in file.files}
    tasks = json.loads(str(stored.pop("tasks")))
    starts = dict.fromkeys(stored, 0)
    found = {}
    for task in tasks:
        name_of_task, positions, bodies = task.pop("name"), task.pop("positions"), len(task["bodies"])
        lengths = {"reset_0": positions, "reset_1": positions, "trajectory": 3 * positions, "cameras": 26}
        lengths |= {"first_action": positions, "agent_pos": 8, "made_up_joints": 16 * len(task["hinges"])}
        lengths |= {"made_up_places": 48 * len(task["objects"]), "made_up_truth": 16 * len(task["goal"])}
        arrays = {}
        for name in stored:
            if name.endswith("_rows"):
                continue
            length = lengths.get(name, bodies)
            part = stored[name][starts[name] : starts[name] + length]
            arrays[name] = stored[f"{name}_rows"][part] if f"{name}_rows" in stored else part
            starts[name] += length
        found[name_of_task] = Reference(**task, arrays=arrays)
    assert all(starts[name] == len(stored[name]) for name in starts if not name.endswith("_rows"))
    return found


@dataclass(frozen=True)
class Pair:
    """A task here and there, and the indices of its bodies here."""

    env: LiberoEnv
    reference: Reference
    bodies: list[int]

    def assert_same_poses(self, name: str) -> None:
        """Of all bodies; quaternions up to their sign."""
        mujoco.mj_forward(self.env.model, self.env.data)
        expected = self.reference.arrays[name]
        np.testing.assert_allclose(self.env.data.xpos[self.bodies], expected[:, :3], atol=1e-6)
        cosines = np.einsum("bi,bi->b", self.env.data.xquat[self.bodies], expected[:, 3:])
        np.testing.assert_allclose(np.abs(cosines), 1.0, atol=1e-6)


def our_name(name: str) -> str:
    """robosuite 1.5's name of a part of the robot that has another one in 1.4."""
    for prefix, ours in (("gripper0_", "gripper0_right_"), ("mount0_", "fixed_mount0_")):
        if name.startswith(prefix):
            return ours + name.removeprefix(prefix)
    return name


@pytest.fixture(scope="module", params=sorted(references()) if os.environ.get("VLA_CL_LIBERO_EVERY_TASK") else CHOSEN)
def pair(request: pytest.FixtureRequest, libero_root: Path) -> Pair:
    suite, problem = request.param.split("/")
    reference = references()[request.param]
    env = make_environment(
        EnvironmentSpec(
            "libero",
            {"suite": suite, "problem": problem, "settle_steps": 0, "arm_noise": 0.0},
            horizon=1000,
            init_state_seeds=tuple(range(FIRST_SEED, FIRST_SEED + 50)),
            observation=ObservationOptions(cameras=()),
        )
    )
    assert isinstance(env, LiberoEnv)
    return Pair(env, reference, [int(env.model.body(our_name(name)).id) for name in reference.bodies])


def test_all_130_tasks_are_known() -> None:
    suites = [name.split("/")[0] for name in references()]
    assert {suite: suites.count(suite) for suite in suites} == {
        "libero_spatial": 10,
        "libero_object": 10,
        "libero_goal": 10,
        "libero_10": 10,
        "libero_90": 90,
    }
    assert set(CHOSEN) <= set(references())


def test_joints_have_the_originals_order(pair: Pair) -> None:
    names = [pair.env.model.joint(index).name for index in range(pair.env.model.njnt)]
    assert names == [our_name(name) for name in pair.reference.joints]


def test_bodies_have_the_originals_masses_and_collision_shapes(pair: Pair) -> None:
    model = pair.env.model
    inertia = np.hstack([model.body_mass[:, None], model.body_inertia])[pair.bodies]
    np.testing.assert_allclose(inertia, pair.reference.arrays["bodies"], rtol=1e-9, atol=1e-12)

    columns = [np.ones((model.ngeom, 1)), model.geom_size, model.geom_friction, model.geom_solref]
    columns += [model.geom_solimp, model.geom_condim[:, None], model.geom_margin[:, None]]
    shapes = np.hstack(columns) * ((model.geom_contype | model.geom_conaffinity) > 0)[:, None]
    sums = np.zeros((model.nbody, shapes.shape[1]))
    np.add.at(sums, model.geom_bodyid, shapes)
    np.testing.assert_allclose(sums[pair.bodies], pair.reference.arrays["shapes"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seed_draws_the_scene_that_it_draws_in_the_original(pair: Pair, seed: int) -> None:
    pair.env.restart(seed=seed)
    np.testing.assert_allclose(pair.env.data.qpos, pair.reference.arrays[f"reset_{seed}"], atol=1e-9)
    pair.assert_same_poses(f"reset_{seed}_poses")


@pytest.mark.parametrize("index", STORED)
def test_a_stored_state_puts_every_body_where_the_original_puts_it(pair: Pair, index: int) -> None:
    pair.env.restart(options={"init_state": index})
    pair.assert_same_poses(f"stored_{index}")
    assert not pair.env.judge(np.zeros(7, np.float32))[1]


def test_proprioception_and_cameras_are_the_originals(pair: Pair) -> None:
    pair.env.restart(options={"init_state": 0})
    np.testing.assert_allclose(pair.env.agent_pos(), pair.reference.arrays["agent_pos"], atol=2e-6)
    model, data = pair.env.model, pair.env.data
    mujoco.mj_forward(model, data)
    for name, expected in zip(
        ("agentview", "robot0_eye_in_hand"), pair.reference.arrays["cameras"].reshape(2, 13), strict=True
    ):
        camera = model.camera(name).id
        seen = np.concatenate([data.cam_xpos[camera], data.cam_xmat[camera], model.cam_fovy[[camera]]])
        np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_the_goals_conditions_hold_where_they_hold_in_the_original(pair: Pair) -> None:
    env, arrays = pair.env, pair.reference.arrays
    joints = arrays["made_up_joints"].reshape(16, -1) / GRID
    places = arrays["made_up_places"].reshape(16, -1, 3) / GRID
    hinges = [int(env.model.joint(name).qposadr[0]) for name in pair.reference.hinges]
    free = [int(env.model.joint(f"{name}_joint0").qposadr[0]) for name in pair.reference.objects]
    seen = []
    for positions, where in zip(joints, places, strict=True):
        env.restart(options={"init_state": 0})
        env.data.qpos[hinges] = positions
        for address, place in zip(free, where, strict=True):
            env.data.qpos[address : address + 3] = place
        mujoco.mj_forward(env.model, env.data)
        seen.append(list(env.judge(np.zeros(7, np.float32))[2]["conditions"].values()))
    np.testing.assert_array_equal(seen, arrays["made_up_truth"].reshape(16, -1))


def test_actions_move_the_arm_as_they_move_it_in_the_original(pair: Pair) -> None:
    env = pair.env
    expected = pair.reference.arrays["trajectory"].reshape(3, -1)
    actions = np.vstack([np.zeros((5, 7)), np.random.RandomState(1).uniform(-1, 1, (15, 7))])
    env.restart(options={"init_state": 0})
    seen = []
    for action in actions.astype(np.float32):
        env.advance(action)
        seen.append(env.data.qpos.copy())
    apart = np.abs(np.array(seen)[[4, 9, 19]] - expected)
    assert apart[:, :9].max() < 1e-6  # arm and fingers
    assert apart[:, 9:].max() < 1e-3  # things that lie in contact, where rounding grows


def test_the_first_action_counts_from_where_the_original_believes_the_arm(pair: Pair) -> None:
    env = pair.env
    env.restart(options={"init_state": STORED[-1]})
    env.advance(np.random.RandomState(2).uniform(-1, 1, 7).astype(np.float32))
    np.testing.assert_allclose(env.data.qpos, pair.reference.arrays["first_action"], atol=1e-6)


def test_the_made_up_states_tell_the_predicates_apart() -> None:
    truths: dict[str, list[bool]] = {}
    for name in CHOSEN:
        reference = references()[name]
        for truth in reference.arrays["made_up_truth"].reshape(16, -1):
            for (predicate, *_), value in zip(reference.goal, truth, strict=True):
                truths.setdefault(predicate, []).append(bool(value))
    assert set(truths) == {"in", "on", "open", "close", "turnon", "turnoff"}
    assert {name: set(values) for name, values in truths.items()} == {name: {True, False} for name in truths}
