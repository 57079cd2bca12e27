"""Each check of `check_task` passes for a sound task, and fails, in one line, for the task that lacks the property."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from vla_cl.envs import BACKENDS, MujocoTaskEnv, ObservationOptions
from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.task_check import PROPERTIES, Check, check_task
from vla_cl.evaluation.task_properties import BrokenPropertyError, Subject
from vla_cl.registry import load_plugins
from vla_cl.tasks import EXPERTS, Task, find_task

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SCENE = """
<mujoco>
  <worldbody>
    <light pos="0 0 2"/>
    <camera name="top" pos="0 0 1"/>
    <camera name="away" pos="0 0 1" xyaxes="1 0 0 0 -1 0"/>
    <geom type="plane" size="1 1 0.1" rgba="0.9 0.9 0.9 1"/>
    <body name="dot" pos="0 0 0.06"><joint type="slide" axis="1 0 0" damping="5"/>
      <geom size="0.05" mass="1" rgba="1 0 0 1"/></body>
  </worldbody>
</mujoco>
"""


class SoundEnv(MujocoTaskEnv):
    """A dot is pushed over a line; nothing is wrong with it."""

    scene = SCENE
    action_size = 1
    default_cameras = ("top",)

    def initialise(self, generator: np.random.Generator) -> None:
        self.data.qpos[:] = generator.uniform(-0.3, -0.1)

    def apply(self, action: np.ndarray) -> None:
        self.data.qfrc_applied[:] = 5 * action

    def success(self) -> bool:
        return bool(self.data.qpos[0] > 0.1)

    def proprioception(self) -> np.ndarray:
        return self.data.qpos


class WildEnv(SoundEnv):
    def initialise(self, generator: np.random.Generator) -> None:
        self.data.qpos[:] = np.random.default_rng(time.perf_counter_ns()).uniform(-0.3, -0.1)


class AlwaysTheSameEnv(SoundEnv):
    def initialise(self, generator: np.random.Generator) -> None:
        self.data.qpos[:] = -0.2


class ForgetfulEnv(SoundEnv):
    """What it keeps in a list of lists is not saved."""

    def initialise(self, generator: np.random.Generator) -> None:
        super().initialise(generator)
        self.memory = [[0.0]]

    def apply(self, action: np.ndarray) -> None:
        self.memory[0][0] += 1.0
        self.data.qfrc_applied[:] = action * self.memory[0][0]


class DriftingEnv(SoundEnv):
    def apply(self, action: np.ndarray) -> None:
        self.data.qfrc_applied[:] = 5.0


class SolvedEnv(SoundEnv):
    """Solved one step after the start, whatever is done."""

    def success(self) -> bool:
        return bool(self.data.time > 0 and self.data.qpos[0] > -0.2)


class EndlessEnv(SoundEnv):
    def advance(self, action: Any) -> Any:
        return super().advance(action)._replace(truncated=False)


class BlankEnv(SoundEnv):
    default_cameras = ("away",)


class WideEnv(SoundEnv):
    def __init__(self, *arguments: Any, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)


class CrashingEnv(SoundEnv):
    def privileged_state(self) -> np.ndarray:
        raise KeyError("gripper")


class StumblingEnv(SoundEnv):
    def success(self) -> bool:
        if self.elapsed_steps > 50:
            raise ValueError("the arm fell off")
        return super().success()


class Pusher:
    def reset(self, env: Any, generator: np.random.Generator) -> None: ...

    def act(self, env: Any) -> np.ndarray:
        return np.ones(1, np.float32)


class Idler(Pusher):
    def act(self, env: Any) -> np.ndarray:
        return np.zeros(1, np.float32)


KINDS = (SoundEnv, WildEnv, AlwaysTheSameEnv, ForgetfulEnv, DriftingEnv, SolvedEnv, EndlessEnv, BlankEnv, WideEnv)
for kind in (*KINDS, CrashingEnv, StumblingEnv):
    BACKENDS.register(f"check-{kind.__name__}", kind)
EXPERTS.register("check-pusher", Pusher)
EXPERTS.register("check-idler", Idler)


def dot(kind: type[SoundEnv], expert: str = "check-pusher") -> Task:
    return Task("dot", "push the dot", 60, f"check-{kind.__name__}", expert=expert)


def prove(name: str, task: Task, minimum_success: float = 0.9) -> str:
    """Check one property alone."""
    with closing(task.environment(ObservationOptions(cameras=(), privileged=True))) as env:
        return PROPERTIES[name](Subject(task, env, 4, minimum_success, (str(Path(__file__)),)))


def test_a_sound_task_passes_every_check():
    load_plugins([str(EXAMPLES / "pushing.py")])
    task = find_task("pushing/push-left")
    checks = list(check_task(task, episodes=5, plugins=[str(EXAMPLES / "pushing.py")]))
    assert [check.name for check in checks] == ["builds", *PROPERTIES]
    assert [check for check in checks if not check.passed] == []
    told = {check.name: check.told for check in checks}
    assert told["builds"] == "action (2,), agent_pos (2,), environment_state (4,)"
    assert told["expert"].startswith("5 of 5 episodes solved (95 % interval 57% to 100%), in ")
    assert told["horizon"] == "an episode is truncated after 80 steps"


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (WildEnv, "seeding", "leads to different states"),
        (AlwaysTheSameEnv, "distinct starts", "12 seeds lead to only 1 initial states"),
        (ForgetfulEnv, "saved states", "a restored state diverges after 1 steps in the same environment"),
        (DriftingEnv, "horizon", "doing nothing succeeds after"),
        (SolvedEnv, "unsolved starts", "the goal holds at the start of"),
        (EndlessEnv, "horizon", "an episode goes on at step 60, its horizon is 60"),
        (BlankEnv, "rendering", "camera 'away' shows one colour only"),
        (WideEnv, "contract", r"actions must lie in \[-1, 1\]"),
    ],
)
def test_a_broken_property_is_found(kind, name, message):
    assert prove(name, dot(SoundEnv))
    with pytest.raises(BrokenPropertyError, match=message) as caught:
        prove(name, dot(kind))
    assert "\n" not in str(caught.value)


def test_an_expert_that_fails_or_is_missing_is_told():
    told = r"'check-idler': 0 of 4 episodes solved \(95 % interval 0% to 49%\), 90% is asked for"
    with pytest.raises(BrokenPropertyError, match=told):
        prove("expert", dot(SoundEnv, "check-idler"))
    assert prove("expert", dot(SoundEnv, "check-idler"), minimum_success=0.0).startswith("0 of 4")
    with pytest.raises(BrokenPropertyError, match="nothing was recorded"):
        prove("replay", dot(SoundEnv, "check-idler"))
    with pytest.raises(ConfigurationError, match="names no expert"):
        prove("expert", dot(SoundEnv, ""))


def test_a_task_that_cannot_be_built_ends_the_checks_in_one_line():
    assert list(check_task(dot(CrashingEnv))) == [Check("builds", False, "KeyError: 'gripper'")]


def test_code_of_the_task_that_raises_fails_its_check_and_not_the_others():
    checks = {check.name: check for check in check_task(dot(StumblingEnv), episodes=2, plugins=[str(Path(__file__))])}
    assert checks["horizon"] == Check("horizon", False, "ValueError: the arm fell off")
    assert checks["seeding"].passed and checks["rendering"].passed


def test_options_out_of_range_are_refused():
    for options in ({"episodes": 1}, {"minimum_success": 1.5}):
        with pytest.raises(ConfigurationError, match="must be"):
            list(check_task(dot(SoundEnv), **options))
