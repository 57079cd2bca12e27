"""Every kind of thing, let go: it stands, stays and weighs what such a thing may; mechanisms stay where they are."""

from __future__ import annotations

import math
from collections.abc import Iterator

import mujoco
import numpy as np
import pytest

from tests.envs.tabletop_scenes import at, item, put, set_joint, tabletop, thing, wait
from vla_cl.envs.tabletop.env import TabletopEnv
from vla_cl.envs.tabletop.item import KINDS
from vla_cl.envs.tabletop.predicates import lowest_point

MOVABLE = ["ball", "block", "bottle", "can", "carton", "cross", "cube", "hammer", "mug", "plate", "prism", "ring"]
STANDING = ["basket", "box", "button", "drawer", "knob", "mat"]
MECHANISMS = {"drawer": "slide", "knob": "hinge", "button": "slide"}


@pytest.fixture(scope="module")
def world() -> TabletopEnv:
    spots = [(-0.15 + 0.13 * (k % 3), -0.42 + 0.13 * (k // 3)) for k in range(len(MOVABLE))]
    things = {kind: thing(kind, *spot) for kind, spot in zip(MOVABLE, spots, strict=True)}
    things |= {
        "drawer": thing("drawer", 0.25, 0.45, yaw=math.pi / 2),
        "basket": thing("basket", -0.1, 0.35, yaw=0.3),
        "box": thing("box", -0.3, 0.2),
        "mat": thing("mat", -0.3, 0.45),
        "knob": thing("knob", 0.25, 0.05),
        "button": thing("button", 0.25, -0.1),
        "held": {"kind": "cube", "region": at(0, 0, of="basket", surface="inside")},
    }
    return tabletop(things, "on(cube, plate)")


@pytest.fixture
def env(world: TabletopEnv) -> Iterator[TabletopEnv]:
    world.restart(seed=0)
    yield world


def test_every_kind_is_looked_at_here():
    assert {*MOVABLE, *STANDING, "mesh"} == set(KINDS)


def test_things_let_go_above_the_table_come_to_rest_upright_and_stay(env: TabletopEnv):
    for kind in MOVABLE:
        x, y, _ = env.pose(kind)[0]
        put(env, kind, (x, y, 0.001 - env.item(kind).bounds.bottom))
    wait(env, 0.5)
    start = {kind: env.pose(kind) for kind in MOVABLE}
    for kind in MOVABLE:
        velocity = env.data.qvel[env.model.joint(f"{kind}_free").dofadr[0] :][:6]
        assert np.abs(velocity).max() < 0.01, f"{kind} trembles"
        assert start[kind][1][2, 2] > 0.999, f"{kind} tilts"
        assert -0.0005 < lowest_point(env, kind) < 0.0005, f"{kind} sinks in, or floats"
    wait(env, 5.0)
    for kind in MOVABLE:
        position, rotation = env.pose(kind)
        assert np.linalg.norm(position - start[kind][0]) < 0.001, f"{kind} creeps"
        assert np.arccos(np.clip(rotation[0] @ start[kind][1][0], -1, 1)) < 0.01, f"{kind} turns"


def test_things_weigh_twenty_grams_to_half_a_kilogram(env: TabletopEnv):
    masses = {kind: float(env.model.body_subtreemass[env.model.body(kind).id]) for kind in MOVABLE}
    assert all(0.02 <= mass <= 0.5 for mass in masses.values()), masses


def test_bounds_are_where_the_shapes_end(env: TabletopEnv):
    for kind in (*MOVABLE, *STANDING):
        body, bounds = env.model.body(kind).id, env.item(kind).bounds
        position, rotation = env.data.xpos[body], env.data.xmat[body].reshape(3, 3)
        low, high = np.full(3, np.inf), np.full(3, -np.inf)
        for geom in env._contacts.geoms(kind):
            turn = rotation.T @ env.data.geom_xmat[geom].reshape(3, 3)
            middle = rotation.T @ (env.data.geom_xpos[geom] - position)
            half = np.abs(turn) @ _half_size(env, int(geom))
            low, high = np.minimum(low, middle - half), np.maximum(high, middle + half)
        np.testing.assert_allclose(low, np.array(bounds.centre) - bounds.half, atol=0.0045, err_msg=kind)
        np.testing.assert_allclose(high, np.array(bounds.centre) + bounds.half, atol=0.0045, err_msg=kind)


def _half_size(env: TabletopEnv, geom: int) -> np.ndarray:
    """Of a geom's bounding box in its own frame (3,)."""
    model, kinds = env.model, mujoco.mjtGeom
    size = model.geom_size[geom]
    match model.geom_type[geom]:
        case kinds.mjGEOM_SPHERE:
            return np.full(3, size[0])
        case kinds.mjGEOM_CYLINDER:
            return np.array([size[0], size[0], size[1]])
        case kinds.mjGEOM_MESH:
            mesh = model.geom_dataid[geom]
            first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
            return np.abs(model.mesh_vert[first : first + count]).max(axis=0)
    return np.array(size)


@pytest.mark.parametrize("kind", [kind for kind in MOVABLE if kind not in ("ball", "plate")])
def test_the_fingers_of_every_gripper_fit_around_what_they_grip(kind: str):
    grip = item(kind).grip
    assert grip is not None
    if kind == "ring":
        return  # gripped across its rim, 14 mm wide
    bounds = item(kind).bounds
    across = abs(math.cos(grip.yaw)) * bounds.half[0] + abs(math.sin(grip.yaw)) * bounds.half[1]
    if kind in ("cross", "hammer"):
        across = 0.011  # gripped at an arm
    assert 2 * across <= 0.05
    assert bounds.bottom <= grip.point[2] <= bounds.top


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_mechanisms_stay_where_they_are_left(env: TabletopEnv, share: float):
    left = {}
    for fixture in MECHANISMS:
        mechanism = env.item(fixture).mechanism
        assert mechanism is not None
        left[fixture] = mechanism.low + share * (mechanism.high - mechanism.low)
        set_joint(env, fixture, left[fixture])
    wait(env, 3.0)
    for fixture, position in left.items():
        mechanism = env.item(fixture).mechanism
        assert abs(env.joint(fixture) - position) < 0.02 * (mechanism.high - mechanism.low), fixture


@pytest.mark.parametrize("fixture", MECHANISMS)
def test_mechanisms_travel_all_of_their_way_and_no_further(env: TabletopEnv, fixture: str):
    mechanism = env.item(fixture).mechanism
    assert mechanism is not None and env.model.joint(f"{fixture}_{MECHANISMS[fixture]}").name
    velocity = int(env.model.joint(f"{fixture}_{mechanism.joint}").dofadr[0])
    for sign, end in ((1, mechanism.high), (-1, mechanism.low)):
        env.data.qfrc_applied[velocity] = sign * {"drawer": 6.0, "knob": 0.3, "button": 10.0}[fixture]
        wait(env, 1.5)
        reached = env.joint(fixture)
        assert reached == pytest.approx(end, abs=0.02 * (mechanism.high - mechanism.low)), fixture
    env.data.qfrc_applied[velocity] = 0


def test_a_part_moves_along_the_axis_that_its_mechanism_names(env: TabletopEnv):
    for fixture in ("drawer", "button"):
        mechanism = env.item(fixture).mechanism
        assert mechanism is not None
        start, rotation = env.pose(fixture, mechanism.part)
        set_joint(env, fixture, mechanism.high)
        way = rotation.T @ (env.pose(fixture, mechanism.part)[0] - start)
        np.testing.assert_allclose(way, mechanism.high * np.array(mechanism.axis), atol=1e-9)


def test_a_basket_and_a_closed_drawer_keep_what_is_in_them(env: TabletopEnv):
    set_joint(env, "drawer", 0.15)
    position, rotation = env.pose("drawer", "drawer")
    put(env, "cube", position + rotation @ np.array([0.0, 0.0, 0.04]), angle=0.2)
    wait(env, 0.3)
    velocity = int(env.model.joint("drawer_slide").dofadr[0])
    env.data.qfrc_applied[velocity] = -6.0
    wait(env, 1.5)
    env.data.qfrc_applied[velocity] = 0
    wait(env, 1.0)
    assert env.joint("drawer") < 0.01
    cabinet, turn = env.pose("drawer")
    inside = turn.T @ (env.pose("cube")[0] - cabinet)
    assert np.abs(inside[:2]).max() < 0.1 and 0.02 < inside[2] < 0.07
    basket = env.pose("basket")[0]
    assert np.abs(env.pose("held")[0] - basket)[:2].max() < 0.07
    env.data.xfrc_applied[env.model.body("held").id, :3] = [0.3, 0.1, 0.0]  # about its own weight, sideways
    wait(env, 1.0)
    env.data.xfrc_applied[:] = 0
    assert np.abs(env.pose("held")[0] - basket)[:2].max() < 0.1 and env.pose("held")[0][2] < 0.05


@pytest.mark.parametrize("upper", ["cube", "can", "prism", "mug"])
@pytest.mark.parametrize("lower", ["plate", "block", "box", "drawer"])
def test_what_is_put_on_a_flat_top_stays_there(env: TabletopEnv, upper: str, lower: str):
    support = env.item(lower).support
    assert support is not None
    position, rotation = env.pose(lower)
    spot = position + rotation @ np.array(support.centre)
    put(env, upper, spot - np.array([0, 0, env.item(upper).bounds.bottom - 0.001]))
    wait(env, 0.5)
    start = env.pose(upper)[0]
    wait(env, 1.0)
    assert np.linalg.norm(env.pose(upper)[0] - start) < 0.0005
    assert env.touching(upper, lower) and env.pose(upper)[1][2, 2] > 0.99
