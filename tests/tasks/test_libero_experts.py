"""LIBERO's scripted expert: what it sees from above, how it takes things, and whether it succeeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from vla_cl.envs import ObservationOptions
from vla_cl.envs.libero.bddl import Condition
from vla_cl.envs.libero.env import LiberoEnv
from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.tasks import make_expert
from vla_cl.tasks.libero_grasps import graspable
from vla_cl.tasks.libero_places import best_spot
from vla_cl.tasks.libero_plans import ordered
from vla_cl.tasks.libero_shapes import Boxes, boxes_of, others
from vla_cl.tasks.libero_suites import libero_task
from vla_cl.tasks.skills import Hand, close_fingers, descend, reach, rotation_about

BETWEEN = "pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate"
UP = np.array([0.0, 0.0, 1.0])


@pytest.fixture(scope="module")
def table(libero_root: Path) -> Iterator[LiberoEnv]:
    """Bowls, a plate, a ramekin, cookies, a cabinet and a stove on a table, at rest in stored initial state 0."""
    with closing(libero_task("libero_spatial", BETWEEN).environment(ObservationOptions(cameras=()))) as env:
        assert isinstance(env, LiberoEnv)
        yield env


@pytest.fixture(autouse=True)
def _at_the_start(request: pytest.FixtureRequest) -> None:
    if "table" in request.fixturenames:
        request.getfixturevalue("table").restart(seed=2_000_000)


def test_a_cube_on_its_edge_is_as_high_as_its_diagonal():
    turned = rotation_about(np.array([0.0, 1.0, 0.0]), np.pi / 4)
    cube = Boxes(np.array([[0.0, 0.0, 1.0]]), turned[None], np.full((1, 3), 0.1))
    points = np.array([[0.0, 0.0], [0.05, 0.0], [0.2, 0.0], [0.0, 0.11]])
    diagonal = 0.1 * np.sqrt(2)
    assert cube.top(points) == pytest.approx([1 + diagonal, 1 + diagonal - 0.05, -np.inf, -np.inf])
    assert cube.bottom(points) == pytest.approx([1 - diagonal, 1 - diagonal + 0.05, np.inf, np.inf])
    assert cube.turned(np.zeros(3), np.pi / 2).top(np.array([[0.0, 0.05]])) == pytest.approx([1 + diagonal - 0.05])


def test_heights_from_above_are_those_of_the_simulators_rays(table: LiberoEnv):
    mujoco = import_mujoco()
    names = [name for name in table.objects if name != "flat_stove_1"]  # its burner is not among collision shapes
    boxes = boxes_of(table, names)
    geoms = {int(geom) for name in names for geom in table.shapes_of(name)}
    points = np.random.default_rng(0).uniform([-0.3, -0.35], [0.25, 0.35], (400, 2))
    seen, hit = np.full(len(points), -np.inf), np.zeros(1, np.int32)
    collision = np.array([1, 0, 0, 0, 0, 0], np.uint8)
    for index, point in enumerate(points):
        start = np.array([*point, 1.4])
        away = mujoco.mj_ray(table.model, table.data, start, -UP, collision, 1, -1, hit)
        if away >= 0 and int(hit[0]) in geoms:
            seen[index] = 1.4 - away
    tops = boxes.top(points)
    met = np.isfinite(seen)
    assert met.sum() > 50
    assert tops[met] == pytest.approx(seen[met], abs=1e-6)


def test_a_bowl_is_taken_at_its_rim_between_its_neighbours(table: LiberoEnv):
    thing = graspable(Hand(table), table, "akita_black_bowl_1")
    low, high = boxes_of(table, ["akita_black_bowl_1"]).extent
    place, middle = thing.place(Hand(table)), (low + high) / 2
    radius = float(np.linalg.norm((place - middle)[:2]))
    across = table.rotation("akita_black_bowl_1") @ np.array(thing.closes_along[0])
    assert 0.7 * (high - low)[0] / 2 < radius < (high - low)[0] / 2
    assert abs(across @ (place - middle)) > 0.9 * radius  # one finger inside, one outside
    tips = [place[:2] + sign * 0.052 * across[:2] for sign in (-1.0, 1.0)]
    assert (others(table, "akita_black_bowl_1").top(np.array(tips)) < place[2] - 0.0125).all()


def test_a_box_is_taken_across_its_short_side(table: LiberoEnv):
    thing = graspable(Hand(table), table, "cookies_1")
    (half,) = boxes_of(table, ["cookies_1"]).halves
    upright = np.abs(table.rotation("cookies_1")[2])
    level = [axis for axis in range(3) if upright[axis] < 0.5]
    assert abs(thing.closes_along[0][min(level, key=lambda axis: half[axis])]) > 0.99


def test_a_thing_goes_down_until_it_rests_on_what_is_there(table: LiberoEnv):
    hand, name = Hand(table), "cookies_1"
    thing = graspable(hand, table, name)
    hand.attitude = thing.yaws(hand)[0]
    above = lambda: thing.place(hand) + 0.1 * UP  # noqa: E731
    for skill in (reach(hand, above), descend(hand, lambda: thing.place(hand)), close_fingers(hand)):
        for action in skill:
            table.advance(action)
    centre, half = table.position("plate_1")[:2], np.full(2, 0.01)
    spot = best_spot(hand, table, name, centre, half)
    low, _ = boxes_of(table, [name]).extent
    lowest = spot.point[2] - (table.position(name)[2] - low[2])
    top = boxes_of(table, ["plate_1"]).extent[1][2]
    assert np.abs(spot.point[:2] - centre).max() <= 0.0101
    assert 0.905 < lowest <= top + 0.005


@pytest.mark.parametrize(
    ("goal", "expected"),
    [
        (("close d", "in bowl d"), ("in bowl d", "close d")),
        (("on pot stove_top", "turnon stove"), ("turnon stove", "on pot stove_top")),
        (("on bowl_1 bowl_2", "in bowl_2 tray"), ("in bowl_2 tray", "on bowl_1 bowl_2")),
        (("in bowl d", "open d"), ("open d", "in bowl d")),
    ],
)
def test_conditions_come_in_an_order_in_which_none_undoes_another(goal: tuple[str, ...], expected: tuple[str, ...]):
    conditions = [Condition(words[0], tuple(words[1:])) for words in map(str.split, goal)]
    assert [f"{each.predicate} {' '.join(each.arguments)}" for each in ordered(tuple(conditions))] == list(expected)


@pytest.mark.parametrize(
    ("suite", "problem", "noise"),
    [
        ("libero_object", "pick_up_the_butter_and_place_it_in_the_basket", 0.0),
        ("libero_object", "pick_up_the_ketchup_and_place_it_in_the_basket", 0.2),
        (
            "libero_spatial",
            "pick_up_the_black_bowl_in_the_top_drawer_of_the_wooden_cabinet_and_place_it_on_the_plate",
            0.0,
        ),
        ("libero_spatial", BETWEEN, 0.2),
        ("libero_goal", "put_the_wine_bottle_on_top_of_the_cabinet", 0.0),
        ("libero_10", "STUDY_SCENE1_pick_up_the_book_and_place_it_in_the_back_compartment_of_the_caddy", 0.0),
    ],
)
def test_the_expert_succeeds_from_stored_and_fresh_states(libero_root: Path, suite: str, problem: str, noise: float):
    task = libero_task(suite, problem)
    random = np.random.default_rng(1)
    with closing(task.environment(ObservationOptions(cameras=()))) as env:
        for seed in (2_000_001, task.seeds.train[3]):
            expert = make_expert(task)
            env.restart(seed=seed)
            expert.reset(env, np.random.default_rng(seed))
            ended = False
            while not ended:
                action = np.clip(expert.act(env) + random.normal(scale=noise * env.noise_scale, size=7), -1.0, 1.0)
                outcome = env.advance(action.astype(np.float32))
                ended = outcome.terminated or outcome.truncated
            assert outcome.terminated, f"failed from seed {seed}"
