"""How well a strategy finds the task that it faces: pure functions of what it chose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_cl.errors import ConfigurationError

NOBODY = ""
"""In a row of a confusion matrix: parts that belong to no task."""
_TIE = 1e-6


def right_choices(task: str, owners: Sequence[Sequence[str]], weights: ArrayLike) -> NDArray[np.bool_]:
    """Which decisions let a part of the task itself act most, alone or beside others of equal weight (n,).

    Args:
        task: That was faced.
        owners: Of each of M parts, the tasks that it belongs to.
        weights: Of the parts in each decision (n, M).

    Raises:
        ConfigurationError: There is not one weight a part, or one is negative.
    """
    told = np.asarray(weights, np.float64)
    if told.ndim != 2 or told.shape[1] != len(owners) or not (told >= 0).all():
        raise ConfigurationError(f"a choice has one weight of at least 0 a part: got {told.shape} for {len(owners)}")
    own = [task in each for each in owners]
    if not any(own):
        return np.zeros(len(told), np.bool_)
    right: NDArray[np.bool_] = told[:, own].max(axis=1) >= told.max(axis=1) - _TIE
    return right


def confusion_row(task: str, owners: Sequence[Sequence[str]], weights: ArrayLike) -> dict[str, float]:
    """Whose parts acted most: the share of decisions by task, in `NOBODY` for parts without one. A part of several
    tasks counts in equal shares, unless it is the task's own. Arguments and errors as of `right_choices`.
    """
    right = right_choices(task, owners, weights)
    shares: dict[str, float] = {}
    for part, own in zip(np.asarray(weights).argmax(axis=1), right, strict=True):
        chosen = [task] if own else owners[part] or [NOBODY]
        for name in chosen:
            shares[name] = shares.get(name, 0.0) + 1.0 / (len(chosen) * len(right))
    return shares


def mean_shares(weights: ArrayLike) -> NDArray[np.float64]:
    """How much of what acted each part was (M,), over decisions (n, M); where nothing acted, nothing counts."""
    told = np.asarray(weights, np.float64)
    totals = told.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(told, totals, out=np.zeros_like(told), where=totals > 0).mean(axis=0)
    return shares


def information(counts: ArrayLike) -> float:
    """How much the part that acts most says about the task: their mutual information, as a share of what there is to
    know, log T, every task being equally likely.

    Args:
        counts: Decisions (T, M) on each task by heaviest part.

    Returns:
        0 (the same parts for all tasks) to 1 (no part acts for two tasks); nan for a single task.
    """
    told = np.asarray(counts, np.float64)
    if len(told) < 2:
        return math.nan
    given = told / told.sum(axis=1, keepdims=True)
    joint = given / len(told)
    expected = joint.sum(axis=0, keepdims=True) / len(told)
    terms = np.where(joint > 0, joint * np.log(np.divide(joint, expected, out=np.ones_like(joint), where=joint > 0)), 0)
    return float(terms.sum() / math.log(len(told)))


def summarise_routing(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Of what the routing probe found of each task: mean "accuracy" over tasks (None where no part belongs to a task),
    "information" (None where there is one task, or their parts differ), and success where most decisions of an episode
    were right and where they were wrong (None without such an episode).
    """
    found = list(tasks.values())
    owned = [each["accuracy"] for each in found if each["accuracy"] is not None]
    alike = len(found) > 1 and all(each["parts"] == found[0]["parts"] for each in found)
    episodes = [episode for each in found for episode in each["episodes"] if each["accuracy"] is not None]
    return {
        "accuracy": _mean(owned),
        "information": information([each["heaviest"] for each in found]) if alike else None,
        "success_if_right": _mean([episode["success"] for episode in episodes if episode["right"] > 0.5]),
        "success_if_wrong": _mean([episode["success"] for episode in episodes if episode["right"] <= 0.5]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
