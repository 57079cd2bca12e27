"""Tasks on declared scenes: words from goals, ambiguities refused, and YAML files as a task author writes them."""

from __future__ import annotations

import copy
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vla_cl.envs import ObservationOptions
from vla_cl.envs.tabletop.scene import Scene
from vla_cl.errors import ConfigurationError, UnknownNameError, VlaClError
from vla_cl.tasks import SUITES, Task, get_suite, make_expert
from vla_cl.tasks.tabletop import check_told_apart, check_unambiguous, read_declaration, tabletop_task
from vla_cl.tasks.template import write_template

DOCUMENTED = Path(__file__).parents[2] / "docs" / "examples" / "tidy_up.yaml"


def thing(kind: str, x: float, y: float, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "colour": "red", "region": {"x": x, "y": y}, **more}


SCENE: dict[str, Any] = {
    "things": {
        "can": thing("can", 0, -0.2),
        "other": thing("can", 0, 0.05),
        "box": thing("box", 0.15, 0.3),
        "knob": thing("knob", -0.1, -0.35),
    },
    "goal": "on(can, box)",
    "referents": {"can": "left_of(can, other)"},
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SCENE), **changes}


def test_words_follow_from_the_goal_and_from_what_tells_twins_apart():
    scene = changed(referents={"can": "near(can, knob)"})
    task = tabletop_task("twins", scene, horizon=100)
    assert task.instruction == "put the red can that is next to the red knob on the red box"
    assert len(task.paraphrases) == 4 and len(task.held_out_paraphrases) == 3


def without(*names: str) -> dict[str, Any]:
    return {name: each for name, each in SCENE["things"].items() if name not in names}


@pytest.mark.parametrize("suite", [name for name in SUITES if name.startswith("tabletop_")])
def test_the_scenes_of_the_suites_can_be_set_up_and_are_not_ambiguous(suite: str):
    for task in get_suite(suite).tasks:
        check_unambiguous(Scene.from_mapping(task.arguments["scene"]))


def test_words_of_ones_own_are_left_as_they_are():
    scene = changed(goal=["on(can, box)", "not turned(knob)"], things=without("other"), referents={})
    words = {"instruction": "up", "paraphrases": ("higher",), "held_out_paraphrases": ("aloft",)}
    task = tabletop_task("own", scene, horizon=100, **words)
    assert (task.instruction, task.paraphrases, task.held_out_paraphrases) == ("up", ("higher",), ("aloft",))


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        (
            changed(referents={}),
            "the scene is ambiguous: 'can' and 'other' are both called 'red can'; give one another",
        ),
        (
            changed(referents={"can": "left_of(can, other)", "other": "right_of(other, box)"}),
            r"right_of\(other, box\) does not hold at the start, which is what tells 'other' apart",
        ),
        (changed(), "the scene is ambiguous: 'other' and 'can' are both called 'red can'"),
        (
            changed(referents={"can": "behind(can, knob)"}),
            r"behind\(can, knob\) does not hold at the start, which is what tells 'can' apart",
        ),
        (
            changed(things={**SCENE["things"], "other": thing("can", 0, -0.48)}, referents={"can": "near(can, knob)"}),
            r"near\(can, knob\) holds for 'other', too, so that 'can' is ambiguous",
        ),
        (changed(goal="near(can, knob)", things=without("other"), referents={}), r"its goal near\(can, knob\) holds"),
        (
            changed(things={**without("other"), "knob": thing("knob", 0, -0.22)}, referents={}),
            "there is no room for 'can' in its region",
        ),
        (changed(goal="onn(can, box)"), "predicate 'onn' is not registered; did you mean 'on'"),
        (changed(goal="not on(can, box)", things=without("other"), referents={}), r"its goal not on\(can, box\) holds"),
        (
            changed(goal=["on(can, box)", "not turned(knob)"], things=without("other"), referents={}),
            r"no words for 'not turned\(knob\)'; give an instruction",
        ),
        (
            changed(referents={"can": "upright(can)"}),
            r"upright\(can\) holds for 'other', too",
        ),
        (
            changed(
                things={**SCENE["things"], "other": thing("can", -0.1, -0.1)},
                referents={"can": "not right_of(can, knob)"},
            ),
            r"no words for 'not right_of\(can, knob\)'; give an instruction",
        ),
    ],
)
def test_a_scene_that_cannot_be_told_is_refused_in_one_line(scene: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=message) as caught:
        tabletop_task("faulty", scene, horizon=100)
    assert str(caught.value).startswith("task 'faulty': ") and "\n" not in str(caught.value)


def test_two_tasks_that_are_told_the_same_and_mean_different_things_are_refused():
    first = tabletop_task("first", changed(things=without("other"), referents={}), horizon=100)
    second = tabletop_task("second", changed(things=without("other"), referents={}, goal="lifted(can)"), horizon=100)
    check_told_apart([first, second])
    confused = replace(second, held_out_paraphrases=(first.instruction,))
    with pytest.raises(
        ConfigurationError, match="tasks 'first' and 'second' are both told 'put the red can on the red"
    ):
        check_told_apart([first, confused])


# --- YAML ------------------------------------------------------------------------------------------------------


def test_meshes_are_found_beside_the_file_and_the_declaration_is_left_alone(tmp_path: Path):
    (tmp_path / "own.obj").write_text("v 0 0 0\nv 4 0 0\nv 0 4 0\nv 0 0 4\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n")
    things = {"own": thing("mesh", 0, 0, options={"file": "own.obj", "scale": 0.01}), "box": thing("box", 0.1, 0.3)}
    fields = {"things": things, "goal": "on(own, box)", "robot": "Sawyer"}
    for _ in range(2):
        arguments = read_declaration(fields, tmp_path / "tasks.yaml")
        assert arguments["scene"]["things"]["own"]["options"]["file"] == str(tmp_path / "own.obj")
        assert arguments["robot"] == "Sawyer"
    assert things["own"]["options"]["file"] == "own.obj"
    things["own"]["options"]["file"] = "absent.obj"
    with pytest.raises(ConfigurationError, match=r"mesh '.*absent.obj' of object 'own' does not exist"):
        read_declaration(fields, tmp_path / "tasks.yaml")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"thing": {}}, "key of a tabletop task 'thing' .* did you mean 'things'"),
        ({"goal": "on(a, b)"}, "things must map names to values, got None"),
        ({"things": ["a"], "goal": "on(a, b)"}, "things must map names to values"),
        ({"things": {"a": {"kind": "cube", "region": {}, "options": None}}, "goal": "lifted(a)"}, "a.region|things.a"),
    ],
)
def test_a_faulty_declaration_is_told(fields: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(VlaClError, match=message) as caught:
        read_declaration(fields, tmp_path / "tasks.yaml")
    assert "\n" not in str(caught.value)


def command_line(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`vla-cl` in a process of its own, in which nothing of ours has been imported yet."""
    code = "import sys; from vla_cl.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True, timeout=200)


def test_the_scene_template_runs_as_it_is(tmp_path: Path):
    """What `vla-cl tasks check` proves beyond this is proved by the tests of that command."""
    written = write_template("my-task", "scene", tmp_path)
    assert [path.name for path in written.files] == ["my_task.yaml"]
    assert "vla-cl tasks check my-task --plugin my_task.yaml" in written.next_step
    listed = command_line(tmp_path, "tasks", "my-task", "--plugin", "my_task.yaml")
    assert listed.returncode == 0, listed.stderr
    assert "put the red cube in the basket" in " ".join(listed.stdout.split())
    assert solved(declared(tmp_path / "my_task.yaml", "my-task"))


def test_a_mistake_in_a_file_is_told_with_the_files_name_and_line(tmp_path: Path):
    [path] = write_template("my-task", "scene", tmp_path).files
    path.write_text(path.read_text().replace("kind: can", "kind: kan"))
    told = command_line(tmp_path, "tasks", "my-task", "--plugin", "my_task.yaml")
    assert told.returncode != 0
    assert "my_task.yaml, line 1: kind of 'can' 'kan' is not registered" in " ".join(told.stderr.split())
    assert "Traceback" not in told.stderr


def declared(path: Path, name: str) -> Task:
    """A task of a file, without registering it."""
    whole = yaml.safe_load(path.read_text())
    shared = {key: value for key, value in whole.items() if key not in ("tasks", "suite", "description")}
    entry = next(entry for entry in whole.get("tasks", [whole]) if entry["name"] == name)
    fields = {**shared, **entry}
    own = ("name", "instruction", "horizon", "backend", "expert", "paraphrases", "held_out_paraphrases")
    arguments = read_declaration({key: value for key, value in fields.items() if key not in own}, path)
    return Task(name, fields["instruction"], fields["horizon"], fields["backend"], arguments, expert=fields["expert"])


def solved(task: Task) -> bool:
    with closing(task.environment(ObservationOptions(cameras=()))) as env:
        env.restart(seed=task.seeds.selection[0])
        expert = make_expert(task)
        expert.reset(env, np.random.default_rng(0))
        while True:
            outcome = env.advance(expert.act(env))
            if outcome.terminated or outcome.truncated:
                return bool(outcome.info["success"])


@pytest.mark.parametrize("name", ["tidy-can", "tidy-cube"])
def test_the_example_in_the_documentation_is_solved(name: str):
    assert solved(declared(DOCUMENTED, name))


def test_an_unknown_key_of_the_robot_is_told(tmp_path: Path):
    with pytest.raises(UnknownNameError, match=r"key of a tabletop task 'robots' .* did you mean 'robot'"):
        read_declaration({"things": {}, "goal": "on(a, b)", "robots": "Panda"}, tmp_path / "tasks.yaml")


KIND = """
from vla_cl.envs.tabletop.item import Box, Grip, Item, body, numbers, register_kind

@register_kind("domino")
def domino(name, material, height=0.05):
    half = (0.012, 0.025, height / 2)
    xml = body(name, material.geom(f"{name}_g0", "box", numbers(*half)))
    return Item(xml, Box((0, 0, 0), half), grip=Grip((0, 0, 0), fold=2))
"""


def test_a_kind_of_ones_own_comes_in_by_a_plugin(tmp_path: Path):
    [path] = write_template("my-task", "scene", tmp_path).files
    (tmp_path / "dominoes.py").write_text(KIND)
    path.write_text("plugins: [dominoes.py]\n" + path.read_text().replace("kind: cube", "kind: domino"))
    listed = command_line(tmp_path, "tasks", "my-task", "--plugin", "my_task.yaml")
    assert listed.returncode == 0, listed.stderr
    path.write_text(path.read_text().replace("kind: domino", "kind: dominoe"))
    told = command_line(tmp_path, "tasks", "my-task", "--plugin", "my_task.yaml")
    assert "kind of 'cube' 'dominoe' is not registered; did you mean 'domino'?" in " ".join(told.stderr.split())
