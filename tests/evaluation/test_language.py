"""Right words and wrong ones."""

from __future__ import annotations

import math

import pytest

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.instructions import TOLD, instructions_for
from vla_cl.evaluation.metrics import language_sensitivity
from vla_cl.tasks import get_suite


def test_swapped_words_are_those_of_the_other_tasks_and_dropped_ones_are_none() -> None:
    tasks = get_suite("mw5").tasks
    first, *others = tasks
    assert instructions_for(first, "swapped", tasks) == tuple(task.instruction for task in others)
    assert instructions_for(first, "swapped", (*tasks, *tasks)) == tuple(task.instruction for task in others)
    assert instructions_for(first, "dropped") == ("",)
    for kind in ("canonical", "paraphrased", "held_out"):
        assert instructions_for(first, kind, tasks) == first.instructions(kind)
    assert set(TOLD) > {"canonical", "swapped"}


def test_a_task_alone_has_nothing_to_swap() -> None:
    (task, *_) = get_suite("mw5").tasks
    with pytest.raises(ConfigurationError, match="stands alone"):
        instructions_for(task, "swapped", (task,))
    with pytest.raises(ConfigurationError, match="is unknown"):
        instructions_for(task, "sung", (task,))


def test_sensitivity_is_what_the_wrong_words_cost() -> None:
    assert language_sensitivity([1.0, 0.8], [0.1, 0.8]).tolist() == [0.9, 0.0]
    assert math.isnan(language_sensitivity([math.nan], [0.5])[0])
    with pytest.raises(ConfigurationError, match="one success rate a task"):
        language_sensitivity([1.0], [1.0, 0.0])
    with pytest.raises(ConfigurationError, match=r"\[0, 1\]"):
        language_sensitivity([2.0], [1.0])
