"""The backend "libero" as an environment: its contract, its resets, its rules of control, and what it refuses."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from tests.envs.libero_scenes import FIRST_SEED, PLATE, STAY, declared, libero
from vla_cl.envs.libero import standins
from vla_cl.envs.libero.env import ARM_NOISE, LiberoEnv
from vla_cl.envs.libero.initial_states import read_initial_states
from vla_cl.envs.libero.models import INITIAL_POSTURE
from vla_cl.errors import ConfigurationError, SimulationError, UnknownNameError, VlaClError

pytestmark = pytest.mark.usefixtures("libero_root")


@pytest.fixture(scope="module")
def stove(libero_root: Path) -> LiberoEnv:
    return libero(cameras=None, privileged=True)


@pytest.fixture
def small(tmp_path: Path) -> LiberoEnv:
    return declared(tmp_path / "plate.bddl", settle_steps=0, arm_noise=0.0)


def actions(seed: int, count: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 7)).astype(np.float32)


def put(env: LiberoEnv, name: str, near: str, offset: tuple[float, float, float]) -> None:
    """Move a free thing to a place beside another, with the rest of the scene as it is."""
    position = env.position(near) + np.array(offset)
    address = int(env.model.joint(f"{name}_joint0").qposadr[0])
    env.data.qpos[address : address + 3] = position
    env._mujoco.mj_forward(env.model, env.data)


# --- contract --------------------------------------------------------------------------------------------------


def test_it_keeps_gymnasiums_contract(stove: LiberoEnv) -> None:
    check_env(stove, skip_render_check=True)


def test_observations_are_liberos(stove: LiberoEnv) -> None:
    observation, _ = stove.reset(options={"init_state": 3})
    assert {name: image.shape for name, image in observation["pixels"].items()} == {
        "agentview": (64, 64, 3),
        "wrist": (64, 64, 3),
    }
    pose, fingers = observation["agent_pos"][:6], observation["agent_pos"][6:]
    np.testing.assert_allclose(pose[:3], stove.data.site("gripper0_right_grip_site").xpos, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(pose[3:]), np.pi, atol=0.02)  # pointing down
    assert fingers[0] > 0.03 and fingers[1] < -0.03, "the hand has opened while things came to rest"
    state = observation["environment_state"]
    assert state.shape == (98,)
    np.testing.assert_array_equal(state[:8], observation["agent_pos"])
    np.testing.assert_allclose(state[8:11], stove.position(stove.objects[0]), atol=1e-6)


def test_a_saved_state_goes_on_bit_for_bit_in_another_environment(stove: LiberoEnv) -> None:
    stove.restart(options={"init_state": 1})
    for action in actions(0, 5):
        stove.advance(action)
    state = stove.get_state()
    first = [(stove.advance(action), stove.get_state())[1] for action in actions(1, 10)]
    other = libero()
    other.set_state(state)
    second = [(other.advance(action), other.get_state())[1] for action in actions(1, 10)]
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("seed", [7, FIRST_SEED + 2])
def test_a_seed_fixes_everything_whatever_came_before(stove: LiberoEnv, seed: int) -> None:
    other = libero()
    other.restart(seed=seed)
    for _ in range(2):  # drawn, then remembered
        stove.restart(seed=seed)
        np.testing.assert_array_equal(stove.get_state(), other.get_state())
        for action in actions(seed, 3):
            stove.advance(action)
    stove._rested.clear()
    stove.restart(seed=seed)
    np.testing.assert_array_equal(stove.get_state(), other.get_state())


# --- resets ----------------------------------------------------------------------------------------------------


def test_stored_states_are_the_files(libero_root: Path) -> None:
    env = libero(settle_steps=0)
    states = read_initial_states(libero_root / "init_files" / "libero_goal" / "turn_on_the_stove.pruned_init")
    for index in (0, 13, 49):
        env.restart(options={"init_state": index})
        np.testing.assert_array_equal(env.benchmark_state(), states[index])
        assert env.elapsed_steps == 0


def test_settling_brings_things_to_rest_and_does_not_count(stove: LiberoEnv) -> None:
    shaken = libero(settle_steps=0)
    shaken.restart(options={"init_state": 0})
    stove.restart(options={"init_state": 0})
    for _ in range(10):
        shaken.advance(np.array([0, 0, 0, 0, 0, 0, -1], np.float32))
    np.testing.assert_array_equal(stove.benchmark_state(), shaken.benchmark_state())
    assert (stove.elapsed_steps, shaken.elapsed_steps) == (0, 10)


def test_fresh_arms_scatter_as_the_stored_ones_do(small: LiberoEnv, libero_root: Path) -> None:
    noisy = libero(settle_steps=0)
    fresh = []
    for seed in range(60):
        noisy.restart(seed=seed)
        fresh.append(noisy.data.qpos[:7] - INITIAL_POSTURE)
    states = read_initial_states(libero_root / "init_files" / "libero_goal" / "turn_on_the_stove.pruned_init")
    stored = states[:, 1:8] - INITIAL_POSTURE
    for noise in (np.array(fresh), stored):
        assert abs(noise.mean()) < 4 * ARM_NOISE / np.sqrt(noise.size)
        assert noise.std() == pytest.approx(ARM_NOISE, rel=0.15)
    small.restart(seed=0)
    np.testing.assert_array_equal(small.data.qpos[:7], INITIAL_POSTURE)


def test_things_stand_in_their_regions(small: LiberoEnv) -> None:
    for seed in range(20):
        small.restart(seed=seed)
        bowl, plate = small.position("akita_black_bowl_1"), small.position("plate_1")
        assert -0.05 <= bowl[0] <= 0.05 and -0.2 <= bowl[1] <= -0.1
        assert -0.05 <= plate[0] <= 0.05 and 0.1 <= plate[1] <= 0.2
        assert -0.3 <= small.position("flat_stove_1")[0] <= -0.28


# --- control ---------------------------------------------------------------------------------------------------


def test_fingers_close_in_eight_steps_and_stay_where_they_are_at_zero(small: LiberoEnv) -> None:
    small.restart(seed=0)
    commands = []
    for command in (-1, -1, -1, -1, 0, 1, 1, 1, 1, 1, 1, 1, 1):
        small.advance(np.array([0, 0, 0, 0, 0, 0, command], np.float32))
        commands.append(float(small.data.ctrl[small.model.actuator("gripper0_right_gripper_finger_joint1").id]))
    width = 0.04  # robosuite 1.4 moves the command by .01 of half the range in each of 25 physics steps
    expected = np.array([0.625, 0.75, 0.875, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0]) * width
    np.testing.assert_allclose(commands, expected, atol=1e-12)


def test_without_rotation_the_last_one_is_held(small: LiberoEnv) -> None:
    """robosuite 1.5 would take the present rotation for the goal at every step, and drift off."""
    small.restart(seed=0)
    turn = np.array([0, 0, 0, 0, 0, 0.6, 0], np.float32)
    small.advance(turn)
    goal = small._control.memory[7:16].reshape(3, 3).copy()
    for _ in range(30):
        small.advance(STAY)
    np.testing.assert_array_equal(small._control.memory[7:16].reshape(3, 3), goal)
    turned = small.gripper.rotation.T @ goal
    assert np.arccos((np.trace(turned) - 1) / 2) < 0.02, "it has arrived"


# --- predicates ------------------------------------------------------------------------------------------------


def test_on_a_thing_means_close_above_and_in_contact(small: LiberoEnv) -> None:
    small.restart(seed=0)
    assert not small.judge(STAY)[1]
    put(small, "akita_black_bowl_1", "plate_1", (0.0, 0.0, 0.05))
    assert not small.judge(STAY)[1], "it hangs in the air"
    for _ in range(10):
        small.advance(STAY)
    assert small.touching("plate_1", "akita_black_bowl_1")
    assert small.judge(STAY)[1]
    put(small, "akita_black_bowl_1", "akita_black_bowl_1", (0.04, 0.0, -0.002))
    assert not small.judge(STAY)[1], "3 cm from the middle at most"


def test_success_ends_the_episode(small: LiberoEnv) -> None:
    small.restart(seed=0)
    put(small, "akita_black_bowl_1", "plate_1", (0.0, 0.0, 0.01))
    steps = [small.step(STAY) for _ in range(8)]
    assert any(terminated and info["success"] for _, _, terminated, _, info in steps)


def test_the_burner_glows_while_the_stove_is_on(stove: LiberoEnv) -> None:
    stove.restart(options={"init_state": 0})
    off = stove.render_camera("agentview", 128, 128).astype(int)
    stove.data.qpos[stove.model.joint(stove.joints_of("flat_stove_1")[0]).qposadr] = 1.0
    stove._mujoco.mj_forward(stove.model, stove.data)
    assert stove.judge(STAY)[1]
    on = stove.render_camera("agentview", 128, 128).astype(int)
    redder = ((on[..., 0] - on[..., 1]) - (off[..., 0] - off[..., 1])) > 60
    assert redder.sum() > 30
    stove.restart(options={"init_state": 0})
    np.testing.assert_array_equal(stove.render_camera("agentview", 128, 128), off)


# --- what is refused -------------------------------------------------------------------------------------------


def crowded(text: str) -> str:
    """Both things in one square of two centimetres; the kitchen keeps no margin that would make it larger."""
    text = text.replace("Tabletop", "Kitchen_Tabletop").replace("- table", "- kitchen_table")
    text = text.replace("main_table", "kitchen_table").replace("(-0.05 -0.2 0.05 -0.1)", "(0 0 0.02 0.02)")
    return text.replace("(-0.05 0.1 0.05 0.2)", "(0 0 0.02 0.02)")


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda text: text.replace("- plate)", "- plato)"), UnknownNameError, "did you mean 'plate'"),
        (lambda text: text.replace("(On akita_black_bowl_1 plate_1)", "(Onn a b)"), VlaClError, "did you mean 'on'"),
        (lambda text: text.replace("Tabletop", "Tabletopp"), UnknownNameError, "libero_tabletop_manipulation"),
        (lambda text: text.replace("plate_1)))", "plate_1)"), VlaClError, "line"),
        (
            lambda text: text.replace("(On plate_1 main_table_right)", ""),
            ConfigurationError,
            "'plate_1' is put nowhere",
        ),
        (
            lambda text: text.replace("(On akita_black_bowl_1 plate_1)", "(In akita_black_bowl_1 plate_1)"),
            ConfigurationError,
            "a thing is in a region",
        ),
        (
            lambda text: text.replace("(On akita_black_bowl_1 plate_1)", "(Open plate_1)"),
            ConfigurationError,
            "'plate_1' cannot be open",
        ),
        (
            crowded,
            SimulationError,
            "finds no place",
        ),
    ],
)
def test_a_wrong_declaration_is_told_in_one_line(
    tmp_path: Path, change: Callable[[str], str], error: type[Exception], told: str
) -> None:
    assert change(PLATE) != PLATE
    with pytest.raises(error, match=told) as caught:
        declared(tmp_path / "wrong.bddl", change(PLATE), settle_steps=0).restart(seed=0)
    assert "\n" not in str(caught.value)


def test_more_things_than_the_privileged_state_holds_are_refused(tmp_path: Path) -> None:
    plates = " ".join(f"plate_{number}" for number in range(1, 12))
    put = "".join(f" (On plate_{number} main_table_right)" for number in range(2, 12))
    text = PLATE.replace("plate_1 - plate)", f"{plates} - plate)")
    text = text.replace("(On flat_stove_1 main_table_back)", f"(On flat_stove_1 main_table_back){put}")
    with pytest.raises(ConfigurationError, match="room for 12 things, the task has 13"):
        declared(tmp_path / "plates.bddl", text, privileged=True)


def test_what_the_backend_cannot_take_is_told(libero_root: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'turn_on_the_stove'"):
        libero(problem="turn_on_the_stoves")
    with pytest.raises(UnknownNameError, match="did you mean 'libero_goal'"):
        libero(suite="libero_gaol")
    with pytest.raises(UnknownNameError, match="camera"):
        libero(cameras=("agentvew",))
    with pytest.raises(ConfigurationError, match="either suite and problem"):
        libero(file="x.bddl")
    with pytest.raises(ConfigurationError, match="settle_steps"):
        libero(settle_steps=-1)


def test_initial_states_of_another_task_are_refused(libero_root: Path) -> None:
    folder = libero_root / "init_files"
    wider = folder / "libero_object" / "pick_up_the_milk_and_place_it_in_the_basket.pruned_init"
    with pytest.raises(SimulationError, match="have 110 numbers, those of turn_on_the_stove have 79"):
        libero(states=str(wider)).restart(options={"init_state": 0})


def test_equally_wide_states_of_another_task_are_refused_where_they_hold_no_rotations(
    libero_root: Path, tmp_path: Path
) -> None:
    shifted = np.roll(
        read_initial_states(libero_root / "init_files" / "libero_goal" / "turn_on_the_stove.pruned_init"), 1, axis=1
    )
    file = tmp_path / "shifted.pruned_init"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(shifted, protocol=2))
        archive.writestr("archive/version", "3")
    with pytest.raises(SimulationError, match="belong to another task"):
        libero(states=str(file)).restart(options={"init_state": 0})


def test_missing_files_are_stood_in_for_and_named_once(
    libero_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the cream cheese's looks the task is the same, to the last bit of its physics."""
    whole = libero()
    assets = tmp_path / "assets"
    shutil.copytree(libero_root / "assets", assets, copy_function=os.symlink)
    for folder in ("bddl_files", "init_files"):
        (tmp_path / folder).symlink_to(libero_root / folder)
    cheese = assets / "stable_hope_objects" / "cream_cheese"
    gone = [file for file in cheese.rglob("*") if file.is_symlink() and file.suffix != ".xml"]
    assert gone
    for file in gone:
        file.unlink()
    monkeypatch.setenv("VLA_CL_LIBERO_ROOT", str(tmp_path))
    monkeypatch.setattr(standins, "_named", set())
    with caplog.at_level(logging.WARNING):
        bare = libero()
        libero()
    named = [record.getMessage() for record in caplog.records if "cream_cheese" in record.getMessage()]
    assert len(named) == 1
    assert all(str(file.relative_to(assets)) in named[0] for file in gone)
    for env in (whole, bare):
        env.restart(options={"init_state": 0})
        for action in actions(0, 10):
            env.advance(action)
    np.testing.assert_array_equal(bare.get_state(), whole.get_state())
    assert (bare.model.ngeom, bare.model.nmesh) != (whole.model.ngeom, whole.model.nmesh)
