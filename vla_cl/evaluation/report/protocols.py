"""Whether runs were measured alike: what must be said wherever their numbers stand side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vla_cl.evaluation.report.runs import Run
from vla_cl.evaluation.report.tables import MISSING, flattened

PROTOCOL = ("suite", "length", "boundaries", "blur", "evaluation.", "rendering.")
"""Keys, or beginnings of keys, of settings that decide what is asked of a policy and how success is counted."""

EARLY_STOP = "evaluation.early_stop."

WITHOUT_EFFECT = ("evaluation.processes", "evaluation.workers", "evaluation.videos")
"""Settings among them that no number depends on."""


def protocol_differences(runs: Sequence[Run]) -> dict[str, tuple[str, ...]]:
    """Where the protocols of runs differ.

    Args:
        runs: In the order of a table's rows or columns.

    Returns:
        Of each setting in which any two differ, its value in each run, "–" where a run does not have it. "tasks" is
        one of them, where the same suite led to others: their names, whatever their order. Empty where the runs'
        numbers may be compared without a mark.
    """
    protocols = [_protocol(run) for run in runs]
    keys = dict.fromkeys(key for each in protocols for key in each)
    told = {key: tuple(each.get(key, MISSING) for each in protocols) for key in keys}
    differences = {key: values for key, values in told.items() if len(set(values)) > 1}
    if "suite" in differences:
        differences.pop("tasks", None)
    return differences


def protocol_groups(runs: Sequence[Run]) -> tuple[int, ...]:
    """The protocol of each run by number, counted from 0 in order of first appearance: runs of one number compare."""
    numbers: dict[tuple[str, ...], int] = {}
    differences = protocol_differences(runs)
    settings = zip(*differences.values(), strict=True) if differences else [()] * len(runs)
    return tuple(numbers.setdefault(each, len(numbers)) for each in settings)


def settings_of(config: Mapping[str, Any]) -> dict[str, str]:
    """A configuration by dotted keys, without the group of early stopping where no rule is set."""
    settings = dict(flattened(config))
    rules = (settings.get(f"{EARLY_STOP}{rule}", "null") for rule in ("threshold", "width"))
    if all(rule == "null" for rule in rules):
        settings = {key: value for key, value in settings.items() if not key.startswith(EARLY_STOP)}
    return settings


def _protocol(run: Run) -> dict[str, str]:
    settings = {
        key: value
        for key, value in settings_of(run.config).items()
        if key.startswith(PROTOCOL) and key not in WITHOUT_EFFECT
    }
    return settings | {"tasks": ", ".join(sorted(set(run.sequence)))}
