"""Initial states: nothing overlaps, everything is where it may be, and no goal holds."""

from __future__ import annotations

import math
from contextlib import closing
from typing import Any

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.envs.tabletop_scenes import at, tabletop, thing
from vla_cl.envs.tabletop.env import TabletopEnv
from vla_cl.envs.tabletop.item import TABLE_SIZE
from vla_cl.envs.tabletop.placement import Placed, PlacedView, place
from vla_cl.envs.tabletop.predicates import holds
from vla_cl.envs.tabletop.scene import Scene
from vla_cl.errors import ConfigurationError

EVERYWHERE = {"x": [-0.25, 0.25], "y": [-0.4, 0.4], "yaw": [-3.1, 3.1]}
CROWDED: dict[str, Any] = {
    "cabinet": {"kind": "drawer", "region": {"x": [0.0, 0.1], "y": [-0.35, -0.3], "yaw": [-2, -1]}, "start": [0, 0.16]},
    "basket": {"kind": "basket", "region": {"x": [-0.1, 0.1], "y": [0.3, 0.4], "yaw": [-1, 1]}},
    "box": {"kind": "box", "region": {**EVERYWHERE, "x": [-0.1, 0.25]}},
    "hammer": {"kind": "hammer", "region": EVERYWHERE},
    "mug": {"kind": "mug", "region": EVERYWHERE},
    "block": {"kind": "block", "region": EVERYWHERE},
    "ring": {"kind": "ring", "region": [EVERYWHERE, at(0, 0, of="basket", surface="inside")]},
    "cube": {"kind": "cube", "region": at(0, 0, of="cabinet", surface="top", yaw=[-1, 1])},
    "can": {"kind": "can", "region": {"x": [0.0, 0.05], "y": [-0.04, 0.04], "of": "cabinet", "surface": "inside"}},
    "plate": {"kind": "plate", "region": EVERYWHERE},
}


@pytest.fixture(scope="module")
def env() -> TabletopEnv:
    return tabletop(CROWDED, "on(cube, plate)")


def things_in_contact(env: TabletopEnv) -> dict[tuple[str, str], float]:
    """By pairs of things, and of robot and thing, the deepest contact in metres, negative where they overlap."""
    names = [*env.items, "robot", "nobody"]  # -2 and -1 are indices from the end
    found: dict[tuple[str, str], float] = {}
    for contact in env.data.contact:
        first, second = sorted(names[env._contacts._owners[geom]] for geom in contact.geom)
        if first != second and "nobody" not in (first, second):
            found[first, second] = min(found.get((first, second), 0.0), float(contact.dist))
    return found


def test_at_the_start_nothing_overlaps_and_the_robot_touches_nothing(env: TabletopEnv):
    for seed in range(20):
        env.restart(seed=seed)
        mujoco.mj_forward(env.model, env.data)
        found = things_in_contact(env)
        assert not [pair for pair in found if "robot" in pair], (seed, found)
        assert all(depth > -0.001 for depth in found.values()), (seed, found)
        assert not holds(env, "on", ("cube", "plate"))


def test_after_half_a_second_everything_is_still_where_it_was_put(env: TabletopEnv):
    for seed in range(3):
        env.restart(seed=seed)
        start = {name: env.pose(name)[0] for name in env.items}
        for _ in range(10):
            env.advance(np.zeros(7, np.float32))
        for name, position in start.items():
            assert np.linalg.norm(env.pose(name)[0] - position) < 0.003, (seed, name)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_everything_is_in_a_region_of_its_own_and_on_the_table(seed: int):
    scene = Scene.from_mapping({"things": CROWDED, "goal": "on(cube, plate)"})
    items = scene.items()
    placed = place(scene, items, np.random.default_rng(seed))
    for name, where in placed.items():
        assert any(inside(region, where, placed, items) for region in scene.things[name].region), name
        assert (np.abs(where.position[:2]) < np.array(TABLE_SIZE[:2]) / 2).all()
    assert placed["cube"].position[2] == pytest.approx(0.1 + 0.02)  # on the cabinet
    assert 0 <= placed["cabinet"].joint <= 0.16


def inside(region: Any, where: Placed, placed: dict[str, Placed], items: Any) -> bool:
    """Whether a place is one that a region allows, by undoing the turn of what it is relative to."""
    offset, yaw = where.position.copy(), where.yaw
    if region.of:
        part = items[region.of].interior_body if region.surface == "inside" else ""
        origin, rotation = PlacedView(items, placed).pose(region.of, part)
        offset, yaw = rotation.T @ (offset - origin), yaw - placed[region.of].yaw
    values = zip((region.x, region.y, region.yaw), (offset[0], offset[1], yaw), strict=True)
    return all(low - 1e-9 <= value <= high + 1e-9 for (low, high), value in values)


def test_seeds_tell_states_apart_and_fix_them(env: TabletopEnv):
    def start(seed: int) -> np.ndarray:
        env.restart(seed=seed)
        return env.get_state()

    states = [start(seed) for seed in range(12)]
    for index, state in enumerate(states):
        np.testing.assert_array_equal(start(index), state)
        assert all(np.abs(state - other).max() > 1e-3 for other in states[:index])


def test_one_thing_may_stand_on_a_cabinet_and_another_in_it():
    things = {
        "cabinet": thing("drawer", 0, 0),
        "above": {"kind": "cube", "region": at(0, 0, of="cabinet", surface="top")},
        "below": {"kind": "cube", "region": at(0, 0, of="cabinet", surface="inside")},
    }
    scene = Scene.from_mapping({"things": things, "goal": "open(cabinet)"})
    placed = place(scene, scene.items(), np.random.default_rng(0))
    assert placed["above"].position[2] - placed["below"].position[2] > 0.06


def test_fixtures_follow_fixtures_in_any_order_of_declaration():
    things = {
        "cube": {"kind": "cube", "region": at(0, 0, of="second", surface="top")},
        "second": {"kind": "box", "region": at(0.2, 0, of="first")},
        "first": {"kind": "box", "region": at(0.15, 0, of="base", yaw=[math.pi / 2, math.pi / 2])},
        "base": thing("box", -0.1, -0.1, yaw=math.pi / 2),
    }
    scene = Scene.from_mapping({"things": things, "goal": "on(cube, base)"})
    placed = place(scene, scene.items(), np.random.default_rng(0))
    np.testing.assert_allclose(placed["first"].position, [-0.1, 0.05, 0], atol=1e-9)
    np.testing.assert_allclose(placed["second"].position, [-0.3, 0.05, 0], atol=1e-9)
    np.testing.assert_allclose(placed["cube"].position, [-0.3, 0.05, 0.07], atol=1e-9)


CAN = {"kind": "can", "colour": "red"}
TWINS = {"one": {**CAN, "region": at(0, -0.2)}, "two": {**CAN, "region": at(0, 0.0)}, "box": thing("box", 0.2, 0.3)}


@pytest.mark.parametrize(
    ("things", "scene", "message"),
    [
        ({"a": thing("cube", 0, 0), "b": thing("cube", 0, 0.05)}, {}, "no room for 'b' in its region"),
        ({"a": thing("cube", 0, 0), "b": thing("cube", 0, 0.62)}, {}, "no room for 'b' .* the table's edge"),
        ({"a": thing("cube", 0.44, 0), "b": thing("cube", 0, 0)}, {}, "no room for 'a' .* the table's edge"),
        (
            {"a": thing("cube", 0, -0.2), "b": thing("cube", 0, 0)},
            {"goal": "left_of(a, b)"},
            r"its goal left_of\(a, b\) holds at the start",
        ),
        (
            TWINS,
            {"goal": "on(one, box)", "referents": {"one": "right_of(one, two)"}},
            r"right_of\(one, two\) does not hold at the start, which is what tells 'one' apart",
        ),
        (
            {**TWINS, "mark": thing("knob", -0.1, -0.1), "two": {**CAN, "region": at(-0.05, 0.02)}},
            {"goal": "on(one, box)", "referents": {"one": "near(one, mark)"}},
            r"near\(one, mark\) holds for 'two', too, so that 'one' is ambiguous",
        ),
    ],
)
def test_what_cannot_be_set_up_says_what_stands_in_the_way(things: Any, scene: Any, message: str):
    declared = Scene.from_mapping({"things": things, "goal": "on(a, b)", **scene})
    with pytest.raises(ConfigurationError, match=message) as caught:
        place(declared, declared.items(), np.random.default_rng(0))
    assert "\n" not in str(caught.value)


def test_a_scene_that_cannot_be_set_up_is_refused_when_its_environment_is_built():
    with (
        pytest.raises(ConfigurationError, match="there is no room for 'b'"),
        closing(tabletop({"a": thing("cube", 0, 0), "b": thing("cube", 0, 0.05)}, "on(a, b)")),
    ):
        pass
