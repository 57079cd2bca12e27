"""Routing: what counts as right, whose parts acted, and what the choice says about the task."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.routing_metrics import (
    NOBODY,
    confusion_row,
    information,
    mean_shares,
    right_choices,
    summarise_routing,
)

OWNERS = (("a",), ("b", "c"), ())


def test_the_heaviest_part_decides_and_equals_share_the_decision() -> None:
    weights = [[0.6, 0.4, 0.0], [0.4, 0.6, 0.0], [0.5, 0.5, 0.0], [0.1, 0.2, 0.7]]
    assert right_choices("a", OWNERS, weights).tolist() == [True, False, True, False]
    assert right_choices("b", OWNERS, weights).tolist() == [False, True, True, False]
    assert right_choices("elsewhere", OWNERS, weights).tolist() == [False] * 4
    assert confusion_row("a", OWNERS, weights) == {"a": 0.5, "b": 0.125, "c": 0.125, NOBODY: 0.25}
    assert confusion_row("b", OWNERS, weights) == {"a": 0.25, "b": 0.5, NOBODY: 0.25}


@given(st.integers(2, 6), st.integers(1, 5))
def test_separable_tasks_have_the_identity_as_their_confusion_matrix(tasks: int, decisions: int) -> None:
    names = [f"task {index}" for index in range(tasks)]
    for index, name in enumerate(names):
        weights = np.tile(np.eye(tasks)[index], (decisions, 1))
        row = confusion_row(name, [(each,) for each in names], weights)
        assert row == {name: pytest.approx(1.0)}


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=8))
def test_every_decision_is_somebodys(weights: list[list[float]]) -> None:
    assert sum(confusion_row("a", OWNERS, weights).values()) == pytest.approx(1.0)
    shares = mean_shares(weights)
    assert bool((shares >= 0).all()) and shares.sum() <= 1 + 1e-9


def test_shares_are_of_what_acted() -> None:
    assert mean_shares([[2.0, 2.0], [0.0, 1.0]]).tolist() == [0.25, 0.75]
    assert mean_shares([[0.0, 0.0]]).tolist() == [0.0, 0.0]


def test_a_choice_has_a_weight_for_each_part() -> None:
    with pytest.raises(ConfigurationError, match="one weight of at least 0 a part"):
        right_choices("a", OWNERS, [[0.5, 0.5]])
    with pytest.raises(ConfigurationError, match="one weight of at least 0 a part"):
        right_choices("a", OWNERS, [[0.5, -0.5, 0.0]])


def test_information_is_1_where_parts_tell_tasks_apart_and_0_where_they_do_not() -> None:
    assert information([[5, 0, 0], [0, 3, 4]]) == pytest.approx(1.0)
    assert information([[5, 5], [50, 50]]) == pytest.approx(0.0)
    assert math.isnan(information([[5, 5]]))
    # a binary symmetric channel with error 1/4 and equal inputs: log 2 - H(1/4)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert information([[30, 10], [1, 3]]) == pytest.approx(1 - entropy / math.log(2))


def test_the_summary_says_whether_wrong_choices_cost_success() -> None:
    def task(accuracy: float | None, heaviest: list[int], *episodes: tuple[bool, float]) -> dict[str, object]:
        told = [{"episode": n, "success": success, "right": right} for n, (success, right) in enumerate(episodes)]
        return {"parts": ["x", "y"], "accuracy": accuracy, "heaviest": heaviest, "episodes": told}

    found = {"a": task(1.0, [4, 0], (True, 1.0), (True, 0.9)), "b": task(0.5, [2, 2], (True, 1.0), (False, 0.0))}
    summary = summarise_routing(found)
    assert summary["accuracy"] == 0.75 and 0 < summary["information"] < 1
    assert (summary["success_if_right"], summary["success_if_wrong"]) == (1.0, 0.0)
    nobody = summarise_routing({"a": task(None, [4, 0], (True, 0.0)), "b": task(None, [0, 4], (True, 0.0))})
    assert nobody == {"accuracy": None, "information": 1.0, "success_if_right": None, "success_if_wrong": None}
