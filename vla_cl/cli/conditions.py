"""`vla-cl evaluate --language` and `--perturb`: one policy, the same initial states, several conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from vla_cl.cli.output import print_json, print_table, progress
from vla_cl.errors import ConfigurationError

if TYPE_CHECKING:
    from vla_cl.checkpoint import Trial
    from vla_cl.evaluation import EpisodeRow, EvaluationOptions
    from vla_cl.tasks import Task

LANGUAGE = ("canonical", "paraphrased", "held_out", "swapped", "dropped")
"""Of `--language`: the right words, other right ones, and wrong ones."""

UNPERTURBED = "unperturbed"
ALL = "all"


def told_in_turn(tasks: Sequence[Task], options: EvaluationOptions) -> tuple[dict[str, EvaluationOptions], str]:
    """The conditions of `--language`: each kind of instructions that all tasks have.

    Returns:
        Options by kind, the right words first; and what is left out, in words, "" for nothing.
    """
    from vla_cl.evaluation.instructions import instructions_for

    missing: dict[str, list[str]] = {}
    for kind in ("held_out", "swapped"):  # which not all tasks have, and which takes two
        for task in tasks:
            try:
                instructions_for(task, kind, tasks)
            except ConfigurationError:
                missing.setdefault(kind, []).append(task.name)
    conditions = {kind: replace(options, instructions=kind, videos=0) for kind in LANGUAGE if kind not in missing}
    return conditions, "; ".join(f"{kind}: {', '.join(names)} has none" for kind, names in missing.items())


def perturbed_in_turn(texts: Sequence[str], options: EvaluationOptions) -> dict[str, EvaluationOptions]:
    """The conditions of `--perturb`: nothing, then each perturbation.

    Args:
        texts: Of the command line: perturbations separated by commas, those that act at once joined by "+"; or "all".
        options: Of the evaluation without.

    Raises:
        UnknownNameError, ConfigurationError: A text names no perturbation.
    """
    from vla_cl.envs.perturbations import PERTURBATIONS, condition_name

    wanted = [each for text in texts for each in text.split(",")]
    if ALL in wanted:
        wanted = [name for each in wanted for name in (PERTURBATIONS if each == ALL else [each])]
    conditions = {UNPERTURBED: replace(options, videos=0)}
    for text in wanted:
        conditions[condition_name([text])] = replace(options, perturbations=[text], videos=0)
    return conditions


def print_language(by_kind: dict[str, list[EpisodeRow]], left_out: str, as_json: bool) -> None:
    """Success by task and kind of words, and how much of it hangs on them."""
    from vla_cl.evaluation.metrics import language_sensitivity
    from vla_cl.evaluation.robustness import costs_of

    rates = {cost.condition: cost.tasks for cost in costs_of(by_kind)}
    names = list(rates["canonical"])
    listed = {kind: [tasks[name] for name in names] for kind, tasks in rates.items()}
    sensitivity = {kind: language_sensitivity(listed["canonical"], each).tolist() for kind, each in listed.items()}
    if as_json:
        print_json({"tasks": names, "success_rate": listed, "sensitivity": sensitivity, "left_out": left_out})
        return
    print_table(
        ["task", *(kind.replace("_", " ") for kind in listed)],
        [
            *([name, *(f"{each[place]:.2f}" for each in listed.values())] for place, name in enumerate(names)),
            ["mean", *(f"{fmean(each):.2f}" for each in listed.values())],
            ["lost by it", *(f"{fmean(each):+.2f}" for each in sensitivity.values())],
        ],
    )
    if left_out:
        progress().print(f"left out: {left_out}", markup=False, soft_wrap=True)


def print_costs(by_condition: dict[str, list[EpisodeRow]], as_json: bool) -> None:
    """Success under each perturbation, what it costs, and the same by task."""
    from vla_cl.evaluation.robustness import costs_of

    costs = costs_of(by_condition)
    if as_json:
        print_json([asdict(cost) for cost in costs])
        return
    print_table(
        ["perturbation", "success rate", "95 % interval", "drop", "95 % interval of the drop", *costs[0].tasks],
        [
            [
                cost.condition,
                f"{cost.success_rate:.2f}",
                "{:.2f} to {:.2f}".format(*cost.interval),
                *(["", ""] if cost is costs[0] else _drop(cost.drop, cost.drop_interval)),
                *(f"{rate:.2f}" for rate in cost.tasks.values()),
            ]
            for cost in costs
        ],
    )


def _drop(drop: float, interval: tuple[float, float]) -> list[str]:
    return [f"{drop:+.2f}", "{:+.2f} to {:+.2f}".format(*interval)]


def draw_conditions(trial: Trial, conditions: dict[str, EvaluationOptions], path: Path, plugins: Sequence[str]) -> None:
    """A sheet of what the policy sees of the first task's first initial state under each condition."""
    from vla_cl.tasks.perturbation_sheet import perturbation_sheet

    first, (unperturbed, *_) = trial.tasks[0], conditions.values()
    panels = {name: ["+".join(options.world_perturbations)] for name, options in conditions.items()}
    perturbation_sheet(
        trial.environment_spec(first, unperturbed, plugins), first.seeds[unperturbed.split][0], panels, path
    )
    progress().print(f"wrote {path}", soft_wrap=True, markup=False)
