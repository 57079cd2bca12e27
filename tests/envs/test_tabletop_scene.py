"""Declarations: what they say survives writing and reading, and what cannot be is told in one line."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.envs.tabletop_scenes import at, tabletop, thing
from vla_cl.envs.tabletop.item import COLOURS, KINDS
from vla_cl.envs.tabletop.scene import Condition, Scene
from vla_cl.errors import VlaClError

GOOD: dict[str, Any] = {
    "things": {
        "cube": {"kind": "cube", "colour": "red", "region": at(0, 0)},
        "box": {"kind": "box", "region": {"x": [0.1, 0.2], "y": 0.3}},
        "cabinet": {"kind": "drawer", "region": at(0, -0.3)},
    },
    "goal": "on(cube, box)",
}


def declared(**changes: Any) -> dict[str, Any]:
    """`GOOD` with changes by path: `things__cube__kind="sphere"`; None takes a key away."""
    scene = copy.deepcopy(GOOD)
    for path, value in changes.items():
        *above, key = path.split("__")
        entry = scene
        for step in above:
            entry = entry.setdefault(step, {})
        if value is None:
            del entry[key]
        else:
            entry[key] = value
    return scene


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thing": {}}, "key of scene 'thing' .* did you mean 'things'"),
        ({"things": []}, r"things must map names to values, got \[\]"),
        ({"things__cube": "red"}, "things.cube must map names to values, got 'red'"),
        ({"things__cube__kind": "cub"}, "kind of 'cube' 'cub' .* did you mean 'cube'"),
        ({"things__cube__kind": 7}, "kind of 'cube' '7'"),
        ({"things__cube__colour": "rde"}, "colour of 'cube' 'rde' .* did you mean 'red'"),
        ({"things__cube__color": "red"}, "key of things.cube 'color' .* did you mean 'colour'"),
        ({"things__cube__region": None}, "things.cube needs a kind and a region"),
        ({"things__cube__region": []}, "'cube' has no region"),
        ({"things__cube__region": "here"}, "things.cube.region must map names to values, got 'here'"),
        ({"things__cube__region__z": 1}, "key of things.cube.region 'z'"),
        ({"things__cube__region__x": [1, 0]}, r"things.cube.region .* x must be a number or \[low, high\], got \[1"),
        ({"things__cube__region__x": ["a", "b"]}, "things.cube.region .* x must be a list of numbers"),
        ({"things__cube__region__x": [0, float("inf")]}, "x must be a list of numbers"),
        ({"things__cube__region__y": [0, 1, 2]}, "y must be a number or"),
        ({"things__cube__region__surface": "top"}, "'top' must say of which fixture"),
        ({"things__cube__region__surface": "under"}, "surface 'under' .* known: inside, table, top"),
        ({"things__cube__region__of": "bok"}, "thing that 'cube' is placed by 'bok' .* did you mean 'box'"),
        ({"things__box__region__of": "cube"}, "'box' is placed by 'cube', which moves"),
        ({"things__cube__region": at(0, 0, of="box", surface="inside")}, "start inside 'box', which is no container"),
        (
            {"things__bin": thing("basket", 0, 0.3), "things__cube__region": at(0, 0, of="bin", surface="top")},
            "cannot start on 'bin', which has no flat top",
        ),
        ({"things__box__region__of": "box"}, "'box' cannot be placed: each waits for the other"),
        (
            {"things__box__region__of": "cabinet", "things__cabinet__region__of": "box"},
            "'box' and 'cabinet' cannot be placed: each waits for the other",
        ),
        ({"things__cube__options": {"sise": 1}}, "thing 'cube' cannot be a cube: .*sise"),
        ({"things__cube__options": {"size": "big"}}, "thing 'cube' cannot be a cube"),
        ({"things__cube__options": {"size": -0.04}}, "thing 'cube' has no size"),
        ({"things__cube__options": [1]}, "thing 'cube' cannot be a cube"),
        ({"things__cube__start": 0.1}, "things.cube.start is for things with a joint, and a cube has none"),
        ({"things__cabinet__start": 0.3}, r"things.cabinet.start must lie within 0 to 0.16, got \[0.3, 0.3\]"),
        ({"things__cabinet__start": "half"}, "things.cabinet.start must be a list of numbers"),
        ({"things__Cube": thing("cube", 0, 0.2)}, "'Cube' is not a usable name"),
        ({"things__table": thing("cube", 0, 0.2)}, "'table' is not a usable name: robosuite has"),
        ({"things__robot0_x": thing("cube", 0, 0.2)}, "'robot0_x' is not a usable name: robosuite has"),
        ({"things__cabinet_drawer": thing("cube", 0, 0.2)}, "'cabinet_drawer' is called like a part of 'cabinet'"),
        ({"goal": None}, "goal is empty"),
        ({"goal": {"on": "cube"}}, "goal must be a condition or a list of conditions"),
        ({"goal": "onn(cube, box)"}, "predicate 'onn' .* did you mean 'on'"),
        ({"goal": "on cube box"}, r"'on cube box' is not of the form predicate\(thing, ...\)"),
        ({"goal": ["on(cube", "box)"]}, "'on.cube' is not of the form .* YAML splits at commas: put it in quotes"),
        ({"goal": [3]}, "condition 3 is not of the form"),
        ({"goal": "on(cube)"}, r"'on\(cube\)' needs 2 things, got 1"),
        ({"goal": "on(cube, bok)"}, "thing 'bok' .* did you mean 'box'"),
        ({"goal": "near(cube, cube)"}, r"'near\(cube, cube\)' names one thing twice"),
        ({"goal": "in(cube, box)"}, r"'in\(cube, box\)' cannot hold: a thing in it has no inside"),
        ({"steps": "opn(cabinet)"}, "predicate 'opn' .* did you mean 'open'"),
        ({"referents": {"cub": "left_of(cube, box)"}}, "thing 'cub' .* did you mean 'cube'"),
        ({"referents": {"cube": "left_of(box, cube)"}}, "referents.cube must be a condition of 'cube' first"),
        ({"dynamics": {"mass": 100}}, "dynamics cannot be used: dynamics.mass must be 0.05 to 20, got 100"),
        ({"dynamics": {"mas": 1}}, "key of dynamics 'mas' .* did you mean 'mass'"),
        ({"camera": {"position": [1, 2]}}, r"camera cannot be used: position must be \[x, y, z\]"),
        ({"camera": {"position": [0, 0, 1], "target": [0, 0, 1]}}, "target must be away from the camera's position"),
        ({"camera": {"field_of_view": 200}}, "field_of_view must be 1 to 170 degrees, got 200"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_place(changes: dict[str, Any], message: str):
    with pytest.raises(VlaClError) as caught:
        Scene.from_mapping(declared(**changes))
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_scene_that_is_no_mapping_is_told():
    with pytest.raises(VlaClError, match="a scene must map names to values, got None"):
        Scene.from_mapping(None)  # type: ignore[arg-type]


# --- meshes ----------------------------------------------------------------------------------------------------

TETRAHEDRON = "v 0 0 0\nv 4 0 0\nv 0 4 0\nv 0 0 4\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


def test_a_mesh_that_is_missing_or_no_mesh_is_told(tmp_path: Path):
    with pytest.raises(VlaClError, match=r"mesh '.*absent.obj' of object 'cube' does not exist; give the path"):
        Scene.from_mapping(
            declared(things__cube__kind="mesh", things__cube__options={"file": str(tmp_path / "absent.obj")})
        )
    (tmp_path / "text.stl").write_text("this is no mesh")
    with pytest.raises(VlaClError, match=r"mesh '.*text.stl' of object 'cube' cannot be read") as caught:
        Scene.from_mapping(
            declared(things__cube__kind="mesh", things__cube__options={"file": str(tmp_path / "text.stl")})
        )
    assert "\n" not in str(caught.value)
    with pytest.raises(VlaClError, match=r"thing 'cube' cannot be a mesh: .*file"):
        Scene.from_mapping(declared(things__cube__kind="mesh"))


def test_a_mesh_of_ones_own_stands_on_the_table(tmp_path: Path):
    path = tmp_path / "tetrahedron & co.obj"
    path.write_text(TETRAHEDRON)
    options = {"file": str(path), "scale": 0.01}
    env = tabletop({"own": thing("mesh", 0.1, 0.1, options=options), "box": thing("box", -0.2, 0.3)}, "on(own, box)")
    bounds = env.item("own").bounds
    assert bounds.half == pytest.approx((0.02, 0.02, 0.02), abs=1e-6)
    assert bounds.centre == pytest.approx((0.02, 0.02, 0.02), abs=1e-6)
    env.restart(seed=0)
    assert env.pose("own")[0] == pytest.approx((0.1, 0.1, 0.0), abs=1e-3)


# --- writing and reading ---------------------------------------------------------------------------------------

NUMBER = st.floats(-0.4, 0.4)
RANGE = st.tuples(NUMBER, NUMBER).map(lambda pair: sorted(pair))
KIND = st.sampled_from(sorted(set(KINDS) - {"mesh"}))


@st.composite
def scenes(draw: st.DrawFn) -> dict[str, Any]:
    things: dict[str, Any] = {"fixed": {"kind": "drawer", "region": at(0, 0)}, "free": thing("cube", 0.2, 0.2)}
    for index in range(draw(st.integers(0, 4))):
        entry: dict[str, Any] = {"kind": draw(KIND), "colour": draw(st.sampled_from(sorted(COLOURS)))}
        regions = [{"x": draw(RANGE), "y": draw(RANGE), "yaw": draw(RANGE)} for _ in range(draw(st.integers(1, 3)))]
        regions[0] |= draw(st.sampled_from([{}, {"of": "fixed"}, {"of": "fixed", "surface": "top"}]))
        entry["region"] = regions if len(regions) > 1 or draw(st.booleans()) else regions[0]
        if draw(st.booleans()):
            entry["phrase"] = draw(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1))
        things[f"thing_{index}"] = entry
    things["fixed"]["start"] = draw(st.one_of(st.just(0.1), st.just([0.0, 0.15])))
    goals = ["on(free, fixed)", "in(free, fixed)", "not open(fixed)", "closed(fixed)", "left_of(free, fixed)"]
    return {
        "things": things,
        "goal": draw(st.lists(st.sampled_from(goals), min_size=1, max_size=3)),
        "steps": draw(st.lists(st.sampled_from(goals), max_size=2)),
        "referents": draw(st.sampled_from([{}, {"free": "near(free, fixed)"}])),
        "dynamics": {"mass": draw(st.floats(0.05, 20))},
        "camera": {"position": [draw(st.floats(0.5, 1)), draw(NUMBER), draw(st.floats(0.5, 1))]},
    }


@settings(max_examples=40, deadline=None)
@given(scenes())
def test_a_scene_survives_writing_and_reading(declaration: dict[str, Any]):
    scene = Scene.from_mapping(declaration)
    assert Scene.from_mapping(scene.to_mapping()) == scene
    assert Scene.from_mapping(json.loads(json.dumps(scene.to_mapping()))) == scene
    assert Scene.from_mapping(yaml.safe_load(yaml.safe_dump(scene.to_mapping()))) == scene


@given(
    st.sampled_from(["on", "in", "near", "left_of"]),
    st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True), min_size=2, max_size=2),
    st.booleans(),
)
def test_a_condition_reads_as_it_is_written(predicate: str, names: list[str], negated: bool):
    condition = Condition(predicate, tuple(names), negated)
    assert Condition.parse(str(condition)) == condition
    assert Condition.parse(f"  {'not  ' if negated else ''}{predicate} (  {names[0]} ,{names[1]} ) ") == condition
