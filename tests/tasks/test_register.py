"""`@register_task`, declarations in YAML, and joined suites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_cl import registry
from vla_cl.envs import BACKENDS, MujocoTaskEnv, ObservationOptions
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.registry import load_plugins
from vla_cl.tasks import (
    EXPERTS,
    SUITES,
    Task,
    available_suites,
    common_dimensions,
    find_task,
    get_suite,
    make_expert,
    register,
    register_suite,
    register_task,
)

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SCENE = """
<mujoco><worldbody><camera name="top" pos="0 0 1"/><body name="dot"><joint name="x" type="slide" axis="1 0 0"/>
<geom size="0.1" mass="1"/></body></worldbody></mujoco>
"""


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """What a test registers is gone after it."""
    kept = [registry_.__dict__["_things"] for registry_ in (SUITES, BACKENDS, EXPERTS) if len(registry_)]
    copies = [dict(things) for things in kept]
    grown, files = {name: dict(tasks) for name, tasks in register._grown.items()}, set(registry._loaded_files)
    yield
    for things, copy in zip(kept, copies, strict=True):
        things.clear()
        things.update(copy)
    register._grown.clear()
    register._grown.update(grown)
    registry._loaded_files.clear()
    registry._loaded_files.update(files)


class Still:
    """An expert that does nothing."""

    def reset(self, env: Any, generator: np.random.Generator) -> None: ...

    def act(self, env: Any) -> np.ndarray:
        return np.zeros(1, np.float32)


class SlidingDotEnv(MujocoTaskEnv):
    """A dot on a line."""

    scene = SCENE
    action_size = 1
    default_cameras = ("top",)
    control_frequency = 50.0
    goal = 0.5

    def initialise(self, generator: np.random.Generator) -> None:
        self.data.qpos[:] = generator.uniform(-0.1, 0.1)

    def apply(self, action: np.ndarray) -> None:
        self.data.qfrc_applied[:] = action

    def success(self) -> bool:
        return bool(self.data.qpos[0] > self.goal)

    def proprioception(self) -> np.ndarray:
        return self.data.qpos


def test_one_class_makes_several_tasks_of_a_suite_and_a_suite_of_each():
    far = register_task("far", suite="slides", instruction="slide far", horizon=30, expert=Still, goal=0.9)
    near = register_task("near", suite="slides", instruction="slide a bit", horizon=20, paraphrases=["a bit"], goal=0.2)
    assert far(near(SlidingDotEnv)) is SlidingDotEnv
    assert BACKENDS["sliding-dot"] is SlidingDotEnv
    assert [task.name for task in get_suite("slides").tasks] == ["near", "far"]
    (task,) = get_suite("far").tasks
    assert task == find_task("slides/far") == find_task("far")
    assert (task.instruction, task.horizon, task.arguments) == ("slide far", 30, {"goal": 0.9})
    assert isinstance(make_expert(task), Still)
    assert find_task("near").paraphrases == ("a bit",)
    assert task.environment(ObservationOptions(())).goal == 0.9  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="suite 'slides' already holds another task 'far'; choose another"):
        register_task("far", suite="slides", instruction="slide even further", horizon=30)(SlidingDotEnv)
    register_task("far", suite="others", instruction="slide as well", horizon=30)(SlidingDotEnv)
    assert find_task("others/far").instruction == "slide as well"
    assert get_suite("far").tasks == (find_task("slides/far"),)
    with pytest.raises(ConfigurationError, match="suite 'mw5' is already registered"):
        register_task("mw5", instruction="slide", horizon=30)(SlidingDotEnv)


def test_a_declaration_is_a_task_without_python(tmp_path):
    (tmp_path / "close.yaml").write_text(
        "name: shut-this-window\ninstruction: shut it\nhorizon: 150\nbackend: meta_world\n"
        "arguments: {task: window-close-v3}\nexpert: meta_world/window-close\nparaphrases: [close it]\n"
    )
    load_plugins(["close.yaml"], tmp_path)
    task = find_task("shut-this-window")
    expected = Task("shut-this-window", "shut it", 150, "meta_world", {"task": "window-close-v3"}, ("close it",))
    assert task == Task(**{**vars(expected), "expert": "meta_world/window-close"})
    assert type(task.arguments) is dict
    assert task.environment(ObservationOptions(())).horizon == 150


def test_the_example_declares_a_suite_and_loads_its_experts():
    load_plugins([str(EXAMPLES / "fetch.yaml")])
    suite = get_suite("fetch")
    assert [task.name for task in suite.tasks] == ["fetch-reach", "fetch-push"]
    assert suite.description == "reach, then push, with the Fetch arm of Gymnasium-Robotics"
    assert all(task.horizon == 80 and task.expert in EXPERTS for task in suite.tasks)


GOOD = "name: shut\ninstruction: shut it\nhorizon: 150\nbackend: meta_world\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "instrution: x\n", r"tasks.yaml, line 5: key 'instrution' is unknown; did you mean 'instruction'\?"),
        ("name: a\ninstruction: b\nbackend: meta_world\n", "line 1: a task needs 'horizon'"),
        (GOOD.replace("150", "soon"), "line 1: horizon must be int, got 'soon'"),
        (GOOD + "arguments: {a: [1, }\n", "tasks.yaml, line 5: "),
        ("- a\n- b\n", "tasks.yaml must be a mapping"),
        (GOOD + "plugins: [absent.py]\n", "plugin 'absent.py' is not a file"),
        (
            "backend: meta_world\nhorizon: 9\ntasks:\n  - name: a b\n    instruction: c\n",
            "line 4: task name 'a b' is not",
        ),
        ("backend: meta_world\ntasks: 3\n", "line 2: tasks must be a list of mappings"),
    ],
)
def test_a_mistake_in_a_declaration_is_one_line_that_names_file_and_line(tmp_path, text, message):
    (tmp_path / "tasks.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_plugins([str(tmp_path / "tasks.yaml")])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import vla_cl\n\nx = 1 / 0\n", "plugin 'mine.py', line 3: ZeroDivisionError: division by zero"),
        ("x = 1\ndef f(:\n", "plugin 'mine.py', line 2: SyntaxError: "),
        ("from vla_cl.tasks import get_suite\nget_suite('mw55')\n", "plugin 'mine.py', line 2: suite 'mw55' is not"),
        ("raise SystemExit(1)\n", "plugin 'mine.py', line 1: SystemExit: 1"),
    ],
)
def test_a_broken_plugin_file_is_one_line_and_loads_once_it_is_mended(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        load_plugins([str(tmp_path / "mine.py")])
    (tmp_path / "mine.py").write_text("from vla_cl.tasks import EXPERTS\nEXPERTS.register('mended', object)\n")
    load_plugins(["mine.py"], tmp_path)
    assert "mended" in EXPERTS


def test_two_files_of_one_name_are_two_plugins(tmp_path):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(
            f"from vla_cl.tasks import EXPERTS\nEXPERTS.register({folder!r}, object)\n"
        )
    load_plugins([str(tmp_path / "first" / "mine.py"), str(tmp_path / "second" / "mine.py")])
    assert "first" in EXPERTS and "second" in EXPERTS


def test_a_suite_that_cannot_be_built_does_not_hide_the_others(caplog):
    register_suite("broken")(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert "mw5" in [suite.name for suite in available_suites()]
    assert "suite 'broken' is left out: suite 'broken' cannot be built: ZeroDivisionError" in caplog.text
    assert find_task("window-close").name == "window-close"
    with pytest.raises(ConfigurationError, match="suite 'broken' cannot be built: ZeroDivisionError: division by zero"):
        get_suite("broken")


def test_suites_and_tasks_are_joined_in_the_order_in_which_they_are_named():
    joined = get_suite("mw3+mw5/push")
    assert [task.name for task in joined.tasks] == ["button-press-topdown", "window-close", "drawer-close", "push"]
    assert joined.ranges == get_suite("mw5").ranges
    assert get_suite("mw5/push").tasks == (find_task("mw5/push"),)
    with pytest.raises(UnknownNameError, match="did you mean 'mw5'"):
        get_suite("mw3+mw55")
    with pytest.raises(UnknownNameError, match="did you mean 'push'"):
        get_suite("mw3+mw5/pusch")


def test_joined_suites_keep_their_ranges_only_if_all_declare_them():
    register_task("slide", instruction="slide", horizon=30)(SlidingDotEnv)
    assert get_suite("mw5+slide").ranges == {}


def test_names_that_mean_two_tasks_cannot_be_joined():
    register_task("push", suite="others", instruction="slide", horizon=30)(SlidingDotEnv)
    with pytest.raises(ConfigurationError, match="holds two different tasks called 'push'"):
        get_suite("mw5+others")


def test_common_dimensions_are_the_widest_and_none_within_one_simulator():
    register_task("slide", instruction="slide", horizon=30)(SlidingDotEnv)
    blind = ObservationOptions(())
    assert common_dimensions(get_suite("mw5").tasks, blind) == {}
    expected = {"actions": 4, "agent_pos": 4, "environment_state": 39}
    assert common_dimensions(get_suite("slide+mw5/push").tasks, blind) == expected
    assert common_dimensions(get_suite("slide").tasks, blind) == {}
    register_task("slide-on", suite="slides", instruction="slide", horizon=30)(SlidingDotEnv)
    same = {"actions": 1, "agent_pos": 1, "environment_state": 2}
    assert common_dimensions(get_suite("slide+slide-on").tasks, blind) == same
    with pytest.raises(ConfigurationError, match=r"show different cameras \(top; corner2, gripperPOV\)"):
        common_dimensions(get_suite("slide+mw5/push").tasks, ObservationOptions())
    with pytest.raises(ConfigurationError, match="task 'push': camera 'top' is not registered"):
        common_dimensions(get_suite("slide+mw5/push").tasks, ObservationOptions(("top",)))
