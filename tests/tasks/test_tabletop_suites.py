"""The tabletop suites as they are shipped: whole, told apart, unsolved at the start, and solved by their expert."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from vla_cl.envs import ObservationOptions
from vla_cl.envs.tabletop.env import TabletopEnv
from vla_cl.envs.tabletop.placement import PlacedView, place
from vla_cl.envs.tabletop.predicates import holds
from vla_cl.envs.tabletop.scene import Condition, Scene
from vla_cl.tasks import SUITES, Task, get_suite, make_expert

NAMES = [name for name in SUITES if name.startswith("tabletop_")]
BLIND = ObservationOptions(cameras=())


def scene_of(task: Task) -> Scene:
    return Scene.from_mapping(task.arguments["scene"])


def test_the_suites_of_the_benchmark_are_there():
    assert {"goal", "spatial", "object", "long", "language", "camera", "dynamics", "robot"} <= {
        name.removeprefix("tabletop_") for name in NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_suite_has_ten_tasks_in_words_that_tell_them_apart(name: str):
    tasks = get_suite(name).tasks
    assert len({task.name for task in tasks}) == len(tasks) == 10
    goals: dict[str, str] = {}
    for task in tasks:
        training, held_out = set(task.instructions("paraphrased")), set(task.instructions("held_out"))
        assert task.instruction and task.paraphrases and held_out
        assert not training & held_out
        assert all(sentence == sentence.strip() and "{" not in sentence for sentence in training | held_out)
        for sentence in training | held_out:
            scene = task.arguments["scene"]
            goal = json.dumps([scene["goal"], scene["referents"]])
            assert goals.setdefault(sentence, goal) == goal, sentence


@pytest.mark.parametrize("name", NAMES)
def test_no_goal_holds_at_the_start_on_twenty_seeds(name: str):
    for task in get_suite(name).tasks:
        scene = scene_of(task)
        items, starts = scene.items(), set()
        for seed in range(20):
            placed = place(scene, items, np.random.default_rng(seed))
            view = PlacedView(items, placed)
            assert not all(true(view, condition) for condition in scene.goal), (task.name, seed)
            assert all(true(view, condition) for condition in scene.referents.values()), (task.name, seed)
            starts.add(tuple(np.concatenate([where.position for where in placed.values()])))
        assert len(starts) == 20


def true(view: object, condition: Condition) -> bool:
    return holds(view, condition.predicate, condition.arguments, condition.negated)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_declarations_survive_json(name: str):
    for task in get_suite(name).tasks:
        scene = task.arguments["scene"]
        assert Scene.from_mapping(json.loads(json.dumps(scene))).to_mapping() == Scene.from_mapping(scene).to_mapping()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "tabletop_goal"])
def test_a_task_of_every_suite_can_be_built(name: str):
    task = get_suite(name).tasks[-1]
    with closing(task.environment(BLIND)) as env:
        env.restart(seed=task.seeds.test[0])
        outcome = env.advance(np.zeros(7, np.float32))
        assert not outcome.info["success"] and not outcome.truncated
        assert set(outcome.info["conditions"]) == {str(condition) for condition in scene_of(task).goal}


@pytest.fixture(scope="module")
def shared() -> Iterator[TabletopEnv]:
    """The scene that all tasks of `tabletop_goal` share, built once."""
    with closing(get_suite("tabletop_goal").tasks[0].environment(BLIND)) as env:
        assert isinstance(env, TabletopEnv)
        yield env


def test_in_the_simulation_no_goal_of_the_shared_scene_holds_either(shared: TabletopEnv):
    tasks = get_suite("tabletop_goal").tasks
    assert len({json.dumps(task.arguments["scene"]["things"]) for task in tasks}) == 1, "pixels never tell the task"
    for seed in range(20):
        shared.restart(seed=seed)
        shared.advance(np.zeros(7, np.float32))
        for task in tasks:
            assert not all(true(shared, condition) for condition in scene_of(task).goal), (task.name, seed)


@pytest.mark.parametrize("task", get_suite("tabletop_goal").tasks, ids=lambda task: task.name)
def test_the_expert_solves_every_goal(task: Task, shared: TabletopEnv, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared, "scene", scene_of(task))
    for seed in task.seeds.selection[:2]:
        shared.restart(seed=seed)
        expert = make_expert(task)
        expert.reset(shared, np.random.default_rng(seed))
        while True:
            outcome = shared.advance(expert.act(shared))
            if outcome.terminated or outcome.truncated:
                break
        assert outcome.info["success"], (seed, outcome.info)
