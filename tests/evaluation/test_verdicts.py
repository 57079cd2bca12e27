"""Kept, hidden or lost: what follows from what probes measured."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_cl.evaluation.verdicts import HIDDEN, KEPT, LOST, UNKNOWN, Verdict, is_forgotten, verdict

SUCCESS = {"former": 20, "final": 2, "episodes": 20}
SCALES = [0.0, 0.25, 0.5, 0.75, 1.0]


def judged(success: dict[str, int] = SUCCESS, scale: Any = None, recovery: Any = None, **changes: Any) -> Verdict:
    return verdict(success, scale, recovery, **{"share": 0.9, "least_scale": 0.5, "few": 20, **changes})


def scales(*successes: int) -> dict[str, Any]:
    return {"scales": SCALES, "successes": list(successes)}


def recovery(relearned: list[int], first: list[int] | None = None) -> dict[str, Any]:
    return {"steps": [0, 10, 20, 40], "relearned": relearned, "first": first}


@given(st.integers(1, 50).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n))), st.floats(0.1, 1.0))
def test_what_lost_nothing_or_never_succeeded_is_not_forgotten(counts: tuple[int, int], share: float) -> None:
    former, final = counts
    assert not is_forgotten(0, final, share)
    assert not is_forgotten(min(former, final), max(former, final), share)
    assert is_forgotten(former, 0, share) == (former > 0)


def test_a_task_that_is_as_good_as_it_was_is_kept_whatever_else_was_probed() -> None:
    kept = {"former": 20, "final": 18, "episodes": 20}
    assert judged(kept, scales(20, 20, 20, 20, 18), recovery([18, 20, 20, 20])).outcome == KEPT


def test_without_probes_nothing_is_known_of_a_forgotten_task() -> None:
    assert judged().outcome == UNKNOWN


@pytest.mark.parametrize(
    ("successes", "outcome", "scale"),
    [
        ((20, 20, 19, 5, 2), HIDDEN, 0.5),
        ((20, 18, 3, 18, 2), HIDDEN, 0.75),
        ((20, 20, 17, 5, 2), LOST, 0.25),  # a quarter is too little of what came since
        ((20, 3, 2, 2, 2), LOST, 0.0),
        ((2, 2, 2, 2, 2), LOST, None),
    ],
)
def test_a_skill_is_hidden_that_is_back_while_half_of_what_came_since_acts(
    successes: tuple[int, ...], outcome: str, scale: float | None
) -> None:
    found = judged(scale=scales(*successes))
    assert (found.outcome, found.scale) == (outcome, scale)


@pytest.mark.parametrize(
    ("relearned", "first", "outcome"),
    [
        ([2, 12, 18, 20], None, HIDDEN),
        ([2, 12, 17, 20], None, LOST),  # back after 40 steps, which are not few
        ([2, 12, 18, 20], [0, 0, 10, 18], HIDDEN),
        ([2, 12, 18, 20], [0, 5, 19, 20], LOST),  # but then it is as quick when it is new
        ([2, 12, 18, 20], [0, 0, 0, 0], HIDDEN),
        ([2, 2, 2, 2], [0, 0, 0, 0], LOST),
    ],
)
def test_a_skill_is_hidden_that_comes_back_in_few_steps_and_sooner_than_a_new_one(
    relearned: list[int], first: list[int] | None, outcome: str
) -> None:
    assert judged(recovery=recovery(relearned, first)).outcome == outcome


def test_one_sign_of_it_is_enough() -> None:
    assert judged(scale=scales(2, 2, 2, 2, 2), recovery=recovery([2, 19, 20, 20])).outcome == HIDDEN
    assert judged(scale=scales(20, 20, 20, 2, 2), recovery=recovery([2, 2, 2, 2])).outcome == HIDDEN


def test_savings_are_the_share_of_steps_that_need_not_be_made_again() -> None:
    assert judged(recovery=recovery([2, 19, 20, 20], [0, 0, 5, 20])).savings == pytest.approx(1 - 10 / 40)
    assert judged(recovery=recovery([2, 2, 2, 20], [0, 0, 5, 20])).savings == 0.0
    assert judged(recovery=recovery([2, 2, 2, 2], [0, 0, 5, 20])).savings is None
    assert judged(recovery=recovery([2, 19, 20, 20])).savings is None
