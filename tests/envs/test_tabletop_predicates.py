"""Each predicate where it holds and where it barely does not: on drawn placements, and on simulated states."""

from __future__ import annotations

import math
from collections.abc import Iterator

import mujoco
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.envs.tabletop_scenes import (
    OPEN_HAND,
    grip_here,
    item,
    put,
    set_joint,
    tabletop,
    thing,
    view,
    wait,
)
from vla_cl.envs.tabletop.env import TabletopEnv
from vla_cl.envs.tabletop.predicates import PREDICATES, holds
from vla_cl.envs.tabletop.world import TABLE_HEIGHT
from vla_cl.errors import ConfigurationError

SIDES = {"left_of": (0, -1), "right_of": (0, 1), "behind": (-1, 0), "in_front_of": (1, 0)}
OPPOSITES = {"left_of": "right_of", "right_of": "left_of", "behind": "in_front_of", "in_front_of": "behind"}
GRID = st.integers(-400, 400).map(lambda k: k / 1024)  # sums and differences of these are exact
YAW = st.floats(-math.pi, math.pi)


# --- where things stand ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "way"), SIDES.items())
def test_beside_begins_two_centimetres_past_touching_and_ends_seven_off_the_line(side: str, way: tuple[int, int]):
    def at(along: float, across: float) -> bool:
        x, y = 0.1 + way[0] * along + way[1] * across, 0.05 + way[1] * along + way[0] * across
        return holds(view(a=("cube", x, y), b=("cube", 0.1, 0.05)), side, ("a", "b"))

    assert at(0.061, 0.0) and not at(0.059, 0.0)  # two halves of 2 cm, and 2 cm of air
    assert at(0.15, 0.069) and not at(0.15, 0.071)
    assert at(0.15, -0.069) and not at(0.15, -0.071)
    assert not at(-0.15, 0.0)


def test_beside_something_wide_counts_along_all_of_its_edge():
    def left(x: float, yaw: float) -> bool:
        return holds(view(a=("cube", x, -0.3), b=("drawer", 0.0, 0.0, yaw)), "left_of", ("a", "b"))

    assert left(0.123, 0.0) and not left(0.125, 0.0)  # half of it and of its handle: 124 mm
    assert left(0.099, math.pi / 2) and not left(0.101, math.pi / 2)


def test_a_turned_thing_is_as_wide_as_it_looks():
    reach = 0.02 + 0.02 * math.sqrt(2) + 0.02

    def left(distance: float) -> bool:
        return holds(view(a=("cube", 0, -distance, math.pi / 4), b=("cube", 0, 0)), "left_of", ("a", "b"))

    assert left(reach + 0.001) and not left(reach - 0.001)


@given(GRID, GRID, GRID, GRID, YAW, YAW)
def test_sides_exclude_their_opposites_and_mirror(ax: float, ay: float, bx: float, by: float, u: float, v: float):
    here, mirrored = (
        view(a=("cube", ax, ay, u), b=("cube", bx, by, v)),
        view(a=("cube", -ax, -ay, u), b=("cube", -bx, -by, v)),
    )
    for side, opposite in OPPOSITES.items():
        true = holds(here, side, ("a", "b"))
        assert not (true and holds(here, opposite, ("a", "b")))
        assert not (true and holds(here, side, ("b", "a")))
        assert true == holds(mirrored, opposite, ("a", "b"))
        if u == v:
            assert true == holds(here, opposite, ("b", "a"))


@given(GRID, GRID, GRID, GRID, GRID, GRID, YAW, st.sampled_from(["drawer", "basket", "mat", "plate", "box"]))
def test_no_predicate_depends_on_where_the_scene_is(
    ax: float, ay: float, bx: float, by: float, dx: float, dy: float, yaw: float, kind: str
):
    things = {"a": ("cube", ax, ay, 0.3), "b": (kind, bx, by, yaw), "c": ("can", 0.25, -0.125)}
    moved = {name: (entry[0], entry[1] + dx, entry[2] + dy, *entry[3:]) for name, entry in things.items()}
    here, there = view(**things), view(**moved)
    for name, predicate in PREDICATES.items():
        arguments = "abc"[: predicate.arity]
        try:
            predicate.check(name, [here.item(argument) for argument in arguments])
        except ConfigurationError:
            continue
        assert holds(here, name, arguments) == holds(there, name, arguments), name


@given(st.sampled_from(["cube", "can", "plate"]), YAW)
def test_near_is_eight_centimetres_between_the_rims(kind: str, direction: float):
    reach = item("cube").radius + item(kind).radius

    def near(distance: float) -> bool:
        x, y = distance * math.cos(direction), distance * math.sin(direction)
        return holds(view(a=("cube", x, y), b=(kind, 0, 0)), "near", ("a", "b"))

    assert near(reach + 0.0799) and not near(reach + 0.0801)


def test_the_rim_of_a_cube_is_the_circle_through_its_corners():
    assert item("cube", size=0.04).radius == pytest.approx(0.02 * math.sqrt(2))
    assert item("box", length=0.06, width=0.08).radius == pytest.approx(0.05)


@given(YAW, st.floats(0.2, 0.6))
def test_between_is_the_middle_half_of_the_way_and_six_centimetres_beside_it(direction: float, length: float):
    way = np.array([math.cos(direction), math.sin(direction)])
    side = np.array([-way[1], way[0]])

    def between(share: float, off: float) -> bool:
        x, y = share * length * way + off * side
        end = length * way
        return holds(view(a=("cube", x, y), b=("can", 0, 0), c=("can", *end)), "between", ("a", "b", "c"))

    assert between(0.251, 0.0) and not between(0.249, 0.0)
    assert between(0.749, 0.0) and not between(0.751, 0.0)
    assert between(0.5, 0.0599) and not between(0.5, 0.0601)
    assert between(0.5, -0.0599) and not between(0.5, -0.0601)


def test_nothing_is_between_two_things_in_one_place():
    assert not holds(view(a=("cube", 0.2, 0.1), b=("can", 0, 0), c=("can", 0, 0)), "between", ("a", "b", "c"))


@given(YAW, st.floats(0.0, 0.16), st.floats(-1.0, 1.0), st.floats(-1.0, 1.0))
def test_in_a_drawer_is_in_what_slides_whichever_way_it_looks(yaw: float, joint: float, u: float, v: float):
    assume(abs(abs(u) - 1) > 1e-6 and abs(abs(v) - 1) > 1e-6)
    scene = view(d=("drawer", 0.0, 0.0, yaw), a=("cube", 0, 0))
    for stretch, expected in ((1.0, True), (1.3, False)):
        u_here = u * stretch if stretch == 1 else math.copysign(stretch, u)
        along, across = u_here * 0.08 - joint, v * 0.076  # the drawer slides along -x of the cabinet
        x, y = along * math.cos(yaw) - across * math.sin(yaw), along * math.sin(yaw) + across * math.cos(yaw)
        placed = scene._placed  # type: ignore[attr-defined]
        placed["d"] = placed["d"].__class__(np.zeros(3), yaw, joint)
        placed["a"] = placed["a"].__class__(np.array([x, y, 0.036]), 0.0)
        assert holds(scene, "in", ("a", "d")) is expected


def test_a_condition_can_be_denied():
    scene = view(a=("cube", 0, -0.2), b=("cube", 0, 0))
    assert holds(scene, "left_of", ("a", "b")) and not holds(scene, "left_of", ("a", "b"), negated=True)
    assert holds(scene, "right_of", ("a", "b"), negated=True)


# --- simulated states ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> TabletopEnv:
    things = {
        "red": thing("cube", 0.1, -0.05),
        "blue": thing("cube", 0.1, 0.05),
        "plate": thing("plate", 0.1, 0.2),
        "mat": thing("mat", -0.15, 0.25),
        "box": thing("box", -0.1, -0.2, yaw=0.6),
        "basket": thing("basket", -0.2, 0.45, yaw=0.4),
        "cabinet": thing("drawer", 0.15, -0.42, yaw=-math.pi / 2),
        "knob": thing("knob", 0.25, 0.1),
        "button": thing("button", 0.25, 0.3),
    }
    return tabletop(things, "on(red, mat)")


@pytest.fixture
def env(world: TabletopEnv) -> Iterator[TabletopEnv]:
    world.restart(seed=0)
    yield world


def along(env: TabletopEnv, fixture: str, x: float, y: float, z: float, part: str = "") -> np.ndarray:
    """A point (3,) of a fixture's frame, above the table's middle."""
    position, rotation = env.pose(fixture, part)
    return position + rotation @ np.array([x, y, z])


def test_on_ends_where_the_middle_passes_the_edge(env: TabletopEnv):
    def on(x: float, y: float) -> bool:
        put(env, "red", along(env, "box", x, y, 0.05 + 0.0199), angle=0.6)
        return holds(env, "on", ("red", "box"))

    assert on(0.0, 0.0)
    assert on(0.049, 0.0) and not on(0.051, 0.0)
    assert on(0.0, -0.049) and not on(0.0, -0.051)
    assert on(0.049, 0.049) and not on(0.051, 0.051)


def test_on_needs_contact_and_rest(env: TabletopEnv):
    put(env, "red", along(env, "box", 0, 0, 0.05 + 0.02 + 0.003), angle=0.6)
    assert not holds(env, "on", ("red", "box")), "in the air"
    wait(env, 0.3)
    assert holds(env, "on", ("red", "box"))
    assert not holds(env, "on", ("red", "plate"))
    put(env, "red", along(env, "box", 0.069, 0, 0.02), angle=0.6)
    assert env.touching("red", "box") and not holds(env, "on", ("red", "box")), "leaning against it"


def test_on_something_that_moves_and_on_a_mat(env: TabletopEnv):
    x, y, z = env.pose("blue")[0]
    put(env, "red", (x + 0.019, y, z + 0.0399))
    assert holds(env, "on", ("red", "blue")) and not holds(env, "on", ("blue", "red"))
    put(env, "red", (x + 0.021, y, z + 0.0399))
    assert not holds(env, "on", ("red", "blue"))
    put(env, "plate", along(env, "mat", 0.079, 0, 0.009))
    assert holds(env, "on", ("plate", "mat"))
    put(env, "plate", along(env, "mat", 0.081, 0, 0.009))
    assert not holds(env, "on", ("plate", "mat"))
    put(env, "plate", along(env, "mat", 0.0, 0, 0.009 + 0.011))
    assert holds(env, "on", ("plate", "mat")), "touching a mat cannot be felt"
    put(env, "plate", along(env, "mat", 0.0, 0, 0.009 + 0.013))
    assert not holds(env, "on", ("plate", "mat"))


def test_what_the_hand_holds_is_lifted_and_lies_nowhere(env: TabletopEnv):
    grip_here(env, "red")
    assert env.held("red") and not env.held("blue")
    assert holds(env, "lifted", ("red",)) and not holds(env, "lifted", ("blue",))
    home = env.model.body("box").id
    env.model.body_pos[home] = env.pose("red")[0] + [0, 0, TABLE_HEIGHT - 0.0695]
    mujoco.mj_forward(env.model, env.data)
    assert env.touching("red", "box") and not holds(env, "on", ("red", "box")), "still held"
    wait(env, 1.0, OPEN_HAND)
    assert not env.held("red") and holds(env, "on", ("red", "box"))


def test_lifted_is_five_centimetres_below_the_lowest_corner(env: TabletopEnv):
    def lifted(height: float, angle: float) -> bool:
        put(env, "red", (0.0, 0.0, height), axis=(1, 0, 0), angle=angle)
        return holds(env, "lifted", ("red",))

    assert lifted(0.0701, 0.0) and not lifted(0.0699, 0.0)
    edge = 0.02 * math.sqrt(2)
    assert lifted(0.0501 + edge, math.pi / 4) and not lifted(0.0499 + edge, math.pi / 4)


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (1, 1, 0)])
def test_upright_is_twenty_degrees(env: TabletopEnv, axis: tuple[int, int, int]):
    for degrees, expected in ((0, True), (19.5, True), (20.5, False), (90, False), (180, False)):
        put(env, "red", (0, 0, 0.2), axis=axis, angle=math.radians(degrees))
        assert holds(env, "upright", ("red",)) is expected, degrees


def test_in_a_basket_is_within_its_walls_below_its_rim_and_let_go(env: TabletopEnv):
    def within(x: float, y: float, z: float) -> bool:
        put(env, "red", along(env, "basket", x, y, z), angle=0.4)
        return holds(env, "in", ("red", "basket"))

    assert within(0, 0, 0.026)
    assert within(0.069, 0, 0.03) and not within(0.071, 0, 0.03)
    assert within(0, 0.069, 0.03) and not within(0, 0.071, 0.03)
    assert within(0, 0, 0.075) and not within(0, 0, 0.077)
    put(env, "red", along(env, "basket", 0, 0, 0.06), angle=0.4)
    wait(env, 0.5)
    assert holds(env, "in", ("red", "basket"))


def test_in_a_turned_drawer_moves_with_it(env: TabletopEnv):
    set_joint(env, "cabinet", 0.15)
    put(env, "red", along(env, "cabinet", -0.02, 0.0, 0.037, "drawer"))
    wait(env, 0.3)
    assert holds(env, "in", ("red", "cabinet"))
    put(env, "red", along(env, "cabinet", -0.079, 0, 0.037, "drawer"))
    assert holds(env, "in", ("red", "cabinet"))
    put(env, "red", along(env, "cabinet", -0.081, 0, 0.037, "drawer"))
    assert not holds(env, "in", ("red", "cabinet"))
    put(env, "red", along(env, "cabinet", 0, 0, 0.1001 + 0.02))
    assert not holds(env, "in", ("red", "cabinet")), "on the cabinet"
    assert not holds(env, "on", ("red", "cabinet")), "not yet down"
    wait(env, 0.3)
    assert holds(env, "on", ("red", "cabinet"))


@pytest.mark.parametrize(
    ("predicate", "fixture", "true", "false"),
    [
        ("open", "cabinet", 0.1201, 0.1199),
        ("open", "cabinet", 0.16, 0.0),
        ("closed", "cabinet", 0.0149, 0.0151),
        ("closed", "cabinet", 0.0, 0.16),
        ("turned", "knob", 1.001, 0.999),
        ("turned", "knob", -1.001, -0.999),
        ("pressed", "button", 0.0141, 0.0139),
        ("pressed", "button", 0.02, 0.0),
    ],
)
def test_mechanisms_are_judged_by_their_joint(
    env: TabletopEnv, predicate: str, fixture: str, true: float, false: float
):
    set_joint(env, fixture, true)
    assert holds(env, predicate, (fixture,))
    set_joint(env, fixture, false)
    assert not holds(env, predicate, (fixture,))


def test_every_predicate_says_which_things_it_can_be_asked_of():
    for text, kinds, complaint in [
        ("on", ("cube", "ball"), "has no flat top"),
        ("on", ("box", "box"), "does not move"),
        ("in", ("cube", "box"), "has no inside"),
        ("open", ("knob",), "has no drawer"),
        ("open", ("button",), "has no drawer"),
        ("closed", ("cube",), "has no drawer"),
        ("turned", ("drawer",), "has no dial"),
        ("pressed", ("drawer",), "has no button"),
        ("pressed", ("knob",), "has no button"),
        ("lifted", ("basket",), "does not move"),
    ]:
        with pytest.raises(ConfigurationError, match=complaint):
            PREDICATES[text].check(text, [item(kind) for kind in kinds])
