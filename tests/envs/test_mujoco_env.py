"""An author's environment: a scene and four methods; the rest, exact saving above all, is done for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vla_cl.envs import EnvironmentSpec, MujocoTaskEnv, ObservationOptions
from vla_cl.errors import ConfigurationError, SimulationError, UnknownNameError

SCENE = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <camera name="top" pos="0 0 2"/>
    <geom type="plane" size="1 1 0.1" rgba="1 1 1 1"/>
    <body name="ball" pos="0 0 0.1">
      <joint type="slide" axis="1 0 0" damping="1"/>
      <joint type="slide" axis="0 1 0" damping="1"/>
      <geom name="ball" type="sphere" size="0.1" mass="1"/>
    </body>
  </worldbody>
</mujoco>
"""


class RollingEnv(MujocoTaskEnv):
    """Pushed by a force whose strength, like the ball's mass and colour, is drawn at the start of an episode."""

    scene = SCENE
    action_size = 2
    control_frequency = 10.0
    default_cameras = ("top",)
    far = 0.5

    def initialise(self, generator: np.random.Generator) -> None:
        self.data.qpos[:] = generator.uniform(-0.2, 0.2, 2)
        self.model.body("ball").mass[0] = generator.uniform(0.5, 2.0)
        self.model.geom("ball").rgba[:3] = generator.uniform(0, 1, 3)
        self.strength = float(generator.uniform(1, 5))
        self.has_moved = False

    def apply(self, action: np.ndarray) -> None:
        self.data.qfrc_applied[:] = self.strength * action * (0.5 if self.has_moved else 1.0)
        self.has_moved = self.has_moved or bool(np.abs(action).max() > 0.9)

    def success(self) -> bool:
        return bool(self.data.qpos[0] > self.far)

    def proprioception(self) -> np.ndarray:
        return self.data.qpos


def rolling(kind: type[MujocoTaskEnv] = RollingEnv, task: str = "", **parameters: Any) -> MujocoTaskEnv:
    spec = EnvironmentSpec("rolling", horizon=60, observation=ObservationOptions((), privileged=True), task=task)
    return kind(spec, **parameters)


def actions(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, 2)).astype(np.float32)


@pytest.mark.filterwarnings("ignore:.*Box observation space.*")
def test_gymnasiums_checker_has_nothing_to_say() -> None:
    check_env(rolling(), skip_render_check=True)


def test_a_saved_state_holds_physics_model_and_attributes_and_continues_in_another_environment() -> None:
    env, other = rolling(), rolling()
    env.restart(seed=3)
    for action in actions(6):
        env.advance(action)
    saved = env.get_state()
    expected = [(env.advance(action), env.environment_state(), env.get_state()) for action in actions(20)]
    assert env.has_moved
    other.restart(seed=99)
    other.set_state(saved)
    assert other.model.body("ball").mass[0] == env.model.body("ball").mass[0]
    assert other.elapsed_steps == 6
    for action, (advance, seen, state) in zip(actions(20), expected, strict=True):
        assert other.advance(action) == advance
        np.testing.assert_array_equal(other.environment_state(), seen)
        np.testing.assert_array_equal(other.get_state(), state)


def test_the_same_physics_as_a_bare_simulation() -> None:
    env = rolling()
    env.restart(seed=4)
    model = mujoco.MjModel.from_xml_string(SCENE)
    model.body("ball").mass[0] = env.model.body("ball").mass[0]
    data = mujoco.MjData(model)
    data.qpos[:] = env.data.qpos
    strength = env.strength
    for action in 0.5 * actions(10):
        env.advance(action)
        data.qfrc_applied[:] = strength * action
        mujoco.mj_step(model, data, nstep=10)
    np.testing.assert_array_equal(env.data.qpos, data.qpos)


def test_each_reset_starts_from_the_compiled_model() -> None:
    class Heavier(RollingEnv):
        def initialise(self, generator: np.random.Generator) -> None:
            super().initialise(generator)
            self.model.body("ball").mass[0] = 2 * mujoco.MjModel.from_xml_string(SCENE).body("ball").mass[0]
            self.model.body_inertia[:] *= 1.5

    env = rolling(Heavier)
    inertia = []
    for seed in (1, 2, 1):
        env.restart(seed=seed)
        inertia.append(env.model.body_inertia.copy())
    np.testing.assert_array_equal(inertia[0], inertia[1])
    np.testing.assert_array_equal(inertia[0], inertia[2])


def test_parameters_replace_class_attributes_and_unknown_ones_are_named() -> None:
    assert rolling(far=0.3).far == 0.3
    with pytest.raises(UnknownNameError, match=r"parameter of RollingEnv 'fra' is not registered; did you mean 'far'"):
        rolling(fra=0.3)


def test_initial_states_that_are_solved_are_drawn_again() -> None:
    class Nearly(RollingEnv):
        def success(self) -> bool:
            return bool(self.data.qpos[0] > 0)

    env = rolling(Nearly)
    for seed in range(20):
        env.restart(seed=seed)
        assert env.data.qpos[0] <= 0

    class Always(RollingEnv):
        def success(self) -> bool:
            return True

    with pytest.raises(SimulationError, match="goal of task 'roll' holds in 100 initial states in a row"):
        rolling(Always, task="roll")


def test_a_broken_scene_is_one_line_that_names_task_and_file(tmp_path: Path) -> None:
    class Missing(RollingEnv):
        scene = tmp_path / "absent.xml"

    with pytest.raises(ConfigurationError, match=r"task 'roll': scene .*absent.xml does not exist"):
        rolling(Missing, task="roll")

    class WithoutMesh(RollingEnv):
        scene = tmp_path / "scene.xml"

    mesh = '<asset><mesh name="cup" file="cup.stl"/></asset><worldbody>'
    (tmp_path / "scene.xml").write_text(SCENE.replace("<worldbody>", mesh))
    with pytest.raises(ConfigurationError, match=r"^task 'roll': .*scene.xml cannot be compiled: .*cup.stl.*$"):
        rolling(WithoutMesh, task="roll")

    class Malformed(RollingEnv):
        scene = SCENE.replace("sphere", "spere")

    with pytest.raises(ConfigurationError, match=r"the scene of Malformed cannot be compiled: .*spere"):
        rolling(Malformed)


def test_a_frequency_that_is_no_whole_number_of_physics_steps_is_refused() -> None:
    class Odd(RollingEnv):
        control_frequency = 30.0

    with pytest.raises(ConfigurationError, match=r"30\.0 Hz is no whole number of the scene's 0\.01 s steps"):
        rolling(Odd)


def test_an_unstable_simulation_ends_the_episode(caplog: pytest.LogCaptureFixture) -> None:
    env = rolling()
    env.restart(seed=0)
    env.data.qvel[:] = 1e12
    assert env.advance(np.zeros(2, np.float32)).info == {"success": False, "failure": "unstable"}
    env.restart(seed=0)
    assert not env.advance(np.zeros(2, np.float32)).truncated


def test_a_scene_is_shown_by_its_own_cameras() -> None:
    spec = EnvironmentSpec("rolling", observation=ObservationOptions(("top",)))
    observation, _ = RollingEnv(spec).reset(seed=0)
    assert observation["pixels"]["top"].std() > 5
    with pytest.raises(UnknownNameError, match="camera 'side' is not registered; known: top"):
        RollingEnv(EnvironmentSpec("rolling", observation=ObservationOptions(("side",))))
