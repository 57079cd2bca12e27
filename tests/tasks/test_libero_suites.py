"""LIBERO's suites: names, orders, words and caps as published; listed without any of the benchmark's files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vla_cl.envs.libero.root import ROOT_VARIABLE
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.tasks import Task, find_task, get_suite
from vla_cl.tasks.libero_language import instruction_of, paraphrases_of
from vla_cl.tasks.libero_suites import HORIZONS, declared_language, libero_task

TEN = ["libero_spatial", "libero_object", "libero_goal", "libero_10"]
SUITES = [*TEN, "libero_90"]


def tasks() -> Iterator[tuple[str, Task]]:
    for name in SUITES:
        for task in get_suite(name).tasks:
            yield name, task


def test_names_are_those_of_the_benchmarks_files_in_its_order(libero_root: Path):
    order = json.loads((libero_root / "suites.json").read_text()) if (libero_root / "suites.json").exists() else {}
    for name in SUITES:
        names = [task.name for task in get_suite(name).tasks]
        assert sorted(names) == sorted(path.stem for path in (libero_root / "bddl_files" / name).glob("*.bddl"))
        assert names == order.get(name, names)


def test_there_are_130_tasks_each_in_one_suite():
    assert [len(get_suite(name).tasks) for name in SUITES] == [10, 10, 10, 10, 90]
    assert len({task.name for _, task in tasks()}) == 130


def test_a_task_is_found_by_its_name_alone():
    assert find_task("turn_on_the_stove").arguments == {"suite": "libero_goal", "problem": "turn_on_the_stove"}


@pytest.mark.parametrize(
    ("problem", "instruction"),
    [
        ("turn_on_the_stove", "turn on the stove"),
        ("KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet", "close the top drawer of the cabinet"),
        ("LIVING_ROOM_SCENE2_pick_up_the_milk_and_put_it_in_the_basket", "pick up the milk and put it in the basket"),
    ],
)
def test_the_instruction_is_in_the_name(problem: str, instruction: str):
    assert instruction_of(problem) == instruction


def test_no_instruction_keeps_a_scene_or_an_underscore():
    for _, task in tasks():
        assert task.instruction.islower() and "_" not in task.instruction and "scene" not in task.instruction


def test_orders_are_the_benchmarks():
    for name in TEN:
        suite = get_suite(name)
        assert list(suite.orders) == [f"order{index}" for index in range(21)]
        assert len(set(suite.orders.values())) == 21
        assert suite.sequence("order0") == suite.sequence()
        indices = [suite.tasks.index(task) for task in suite.sequence("order1")]
        assert indices == [4, 6, 8, 7, 3, 1, 2, 0, 9, 5]
        last = [suite.tasks.index(task) for task in suite.sequence("order20")]
        assert last == [3, 4, 1, 9, 7, 6, 8, 2, 0, 5]
    with pytest.raises(UnknownNameError, match="libero_90 order 'order1'"):
        get_suite("libero_90").sequence("order1")


def test_caps_are_those_of_the_evaluations_of_vla_models():
    horizons = {name: {task.horizon for task in get_suite(name).tasks} for name in SUITES}
    assert horizons == {
        "libero_spatial": {220},
        "libero_object": {280},
        "libero_goal": {300},
        "libero_10": {520},
        "libero_90": {400},
    }


def test_test_seeds_are_the_fifty_stored_states():
    for _, task in tasks():
        assert task.environment_spec().init_state_seeds == tuple(range(2_000_000, 2_000_050))
        assert len(task.seeds.test) == 50


def test_ranges_fit_actions_and_proprioception():
    for name in SUITES:
        ranges = get_suite(name).ranges
        assert {key: len(low) for key, (low, _) in ranges.items()} == {
            "action": 7,
            "agent_pos": 8,
            "environment_state": 98,
        }
        assert all(low < high for lows, highs in ranges.values() for low, high in zip(lows, highs, strict=True))


def test_unknown_names_get_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'turn_on_the_stove'"):
        libero_task("libero_goal", "turn_on_the_stov")
    with pytest.raises(UnknownNameError, match="did you mean 'libero_goal'"):
        libero_task("libero_gaol", "turn_on_the_stove")


# --- words -----------------------------------------------------------------------------------------------------


def test_every_task_has_four_paraphrases_and_two_that_are_held_out():
    for _, task in tasks():
        said = (*task.instructions("paraphrased"), *task.instructions("held_out"))
        assert len(task.paraphrases) == 4 and len(task.held_out_paraphrases) == 2, task.name
        assert len(set(said)) == 7, task.name
        assert all("{" not in sentence and "  " not in sentence for sentence in said)


def test_held_out_paraphrases_are_never_trained_on():
    trained = {sentence for _, task in tasks() for sentence in task.instructions("paraphrased")}
    assert not trained & {sentence for _, task in tasks() for sentence in task.instructions("held_out")}


@pytest.mark.parametrize("name", SUITES)
def test_tasks_of_a_suite_share_words_only_where_they_share_the_instruction(name: str):
    meant: dict[str, str] = {}
    for task in get_suite(name).tasks:
        for sentence in (*task.instructions("paraphrased"), *task.instructions("held_out")):
            assert meant.setdefault(sentence, task.instruction) == task.instruction


VERBS = """
pick up put place open close turn on off push stack grasp take grab lift get hold of seize set lay leave deposit
position pull bring to where it is make sure that have stand shut closed see switch start power down slide shove move
shift nudge drive pile rest balance and then after
"""


def test_paraphrases_change_verbs_and_keep_things_and_places():
    verbs = set(VERBS.split())
    for _, task in tasks():
        things = [word for word in task.instruction.split() if word not in verbs]
        for sentence in (*task.paraphrases, *task.held_out_paraphrases):
            assert [word for word in sentence.replace(",", "").split() if word not in verbs] == things, sentence


def test_a_sentence_in_two_clauses_is_said_in_other_words():
    training, held_out = paraphrases_of("open the top drawer and put the bowl inside")
    assert training[0] == "pull open the top drawer and place the bowl inside"
    assert training[1] == "pull the top drawer open, then set the bowl inside"
    assert held_out[0] == "make sure that the top drawer is open and then deposit the bowl inside"
    assert paraphrases_of("juggle the bowls") == ((), ())


def test_declared_instructions_come_from_the_files(libero_root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ROOT_VARIABLE, str(libero_root))
    differing = 0
    for name, task in tasks():
        (declared,) = task.instructions("declared")
        text = (libero_root / "bddl_files" / name / f"{task.name}.bddl").read_text()
        (line,) = [line for line in text.splitlines() if "(:language" in line]
        assert declared == line.replace("(:language", "").strip().rstrip(")").strip().lower()
        differing += declared != task.instruction
    assert differing == 29


# --- without the files -----------------------------------------------------------------------------------------

WITHOUT = """
import pickle, vla_cl
from vla_cl.errors import ConfigurationError
from vla_cl.tasks import get_suite
for name in %r:
    assert all(pickle.loads(pickle.dumps(task)) == task for task in get_suite(name).tasks)
for act in (
    lambda: vla_cl.make("libero_goal/turn_on_the_stove"),
    lambda: get_suite("libero_goal").tasks[0].instructions("declared"),
):
    try:
        act()
    except ConfigurationError as error:
        print(error)
"""


def test_suites_are_there_without_the_files_and_building_says_what_to_do(tmp_path: Path):
    hidden = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "LIBERO_CONFIG_PATH": str(tmp_path)}
    environment = {key: value for key, value in os.environ.items() if key != ROOT_VARIABLE} | hidden
    code = WITHOUT % list(HORIZONS)
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    lines = result.stdout.splitlines()
    assert len(lines) == 2, result.stderr
    assert all("LIBERO's files were not found" in line and "vla-cl assets fetch libero" in line for line in lines)


def test_declared_words_need_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    with pytest.raises(ConfigurationError, match="holds no bddl_files"):
        declared_language({"suite": "libero_goal", "problem": "turn_on_the_stove"})
