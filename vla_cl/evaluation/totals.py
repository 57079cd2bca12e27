"""What the ledger of a run makes in all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SUMMED = (
    *("collect_seconds", "train_seconds", "evaluate_seconds", "acting_seconds"),
    *("collect_joules", "train_joules", "evaluate_joules"),
    *("evaluate_steps", "communicated_bytes"),
)
_OF_A_TASK = ("collect_steps", "demonstration_bytes")
_AT_THE_END = (
    *("policy_bytes", "strategy_bytes", "trainable_parameters", "extra_parameters"),
    *("extra_passes", "acting_passes", "acting_milliseconds"),
)


def ledger_totals(entries: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """A run's ledger in one line.

    Times, energy, control steps of rollouts, and what a federation sent are summed over all stages; demonstrations
    count once a task; sizes and declared passes are those after the last stage. None where an entry could not be
    measured, and where no entry says anything.
    """
    totals: dict[str, float | None] = {}
    for key in _SUMMED:
        said = [entry[key] for entry in entries if key in entry]
        totals[key] = None if not said or None in said else sum(said)
    for key in _OF_A_TASK:
        said = list({entry["task"]: entry[key] for entry in entries if key in entry and "task" in entry}.values())
        totals[key] = sum(said) if said else None
    for key in _AT_THE_END:
        said = [entry[key] for entry in entries if key in entry]
        totals[key] = said[-1] if said else None
    return totals
