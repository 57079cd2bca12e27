"""The 50 tasks and what the robot is told."""

from __future__ import annotations

import itertools

import pytest

from vla_cl.errors import UnknownNameError
from vla_cl.tasks import EXPERTS, get_suite
from vla_cl.tasks.meta_world import TASK_NAMES, meta_world_task

TASKS = get_suite("mw50").tasks

LOOK_ALIKES = [
    ("button-press", "button-press-topdown"),
    ("button-press", "button-press-wall"),
    ("button-press-topdown", "button-press-topdown-wall"),
    ("button-press-wall", "button-press-topdown-wall"),
    ("faucet-close", "faucet-open"),
    ("handle-press", "handle-press-side"),
    ("handle-pull", "handle-pull-side"),
    ("pick-place", "pick-place-wall"),
    ("plate-slide", "plate-slide-side"),
    ("plate-slide-back", "plate-slide-back-side"),
    ("push", "push-wall"),
    ("reach", "reach-wall"),
]


def test_the_tasks_are_those_of_the_package():
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert {task.arguments["task"] for task in TASKS} == set(ALL_V3_ENVIRONMENTS)
    assert [task.name for task in TASKS] == list(TASK_NAMES) == sorted(TASK_NAMES)
    assert len(TASKS) == 50


def test_every_task_names_its_backend_and_a_registered_expert():
    for task in TASKS:
        assert task.backend == "meta_world"
        assert task.expert == f"meta_world/{task.name}"
        assert task.expert in EXPERTS


def test_every_task_has_an_instruction_five_paraphrases_and_two_that_are_held_out():
    for task in TASKS:
        assert task.instruction
        assert len(task.paraphrases) >= 5, task.name
        assert len(task.held_out_paraphrases) >= 2, task.name


def test_no_sentence_is_used_twice_within_or_across_tasks():
    sentences = [
        sentence for task in TASKS for sentence in (*task.instructions("paraphrased"), *task.instructions("held_out"))
    ]
    assert len(sentences) == len(set(sentences))


def test_held_out_paraphrases_are_never_trained_on():
    trained = {sentence for task in TASKS for sentence in task.instructions("paraphrased")}
    held_out = {sentence for task in TASKS for sentence in task.instructions("held_out")}
    assert trained.isdisjoint(held_out)


def test_sentences_are_plain_lower_case_english_without_a_full_stop():
    for task in TASKS:
        for sentence in (*task.instructions("paraphrased"), *task.instructions("held_out")):
            assert sentence.isascii() and sentence == sentence.strip().lower(), sentence
            assert sentence[-1].isalnum(), sentence
            assert len(sentence.split()) >= 2, sentence


def test_paraphrases_of_a_task_differ_in_more_than_one_word():
    for task in TASKS:
        sentences = (*task.instructions("paraphrased"), *task.instructions("held_out"))
        for first, second in itertools.combinations(sentences, 2):
            assert len(set(first.split()) ^ set(second.split())) >= 2, (task.name, first, second)


@pytest.mark.parametrize(("plain", "special"), LOOK_ALIKES)
def test_tasks_that_look_alike_are_told_apart_by_every_sentence(plain: str, special: str):
    first, second = meta_world_task(plain), meta_world_task(special)
    for kind in ("paraphrased", "held_out"):
        for one, other in itertools.product(first.instructions(kind), second.instructions(kind)):
            assert len(set(one.split()) ^ set(other.split())) >= 2, (one, other)


@pytest.mark.parametrize("name", [name for name in TASK_NAMES if name.endswith("-wall")])
def test_every_sentence_of_a_task_with_a_wall_mentions_it(name: str):
    task = meta_world_task(name)
    for sentence in (*task.instructions("paraphrased"), *task.instructions("held_out")):
        assert any(word in sentence for word in ("wall", "barrier", "obstacle")), sentence


def test_a_task_that_meta_world_lacks_is_an_error_that_names_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'window-close'"):
        meta_world_task("window-closed")
