"""How the commands of `vla-cl data` say what is in a demonstration file, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vla_cl.cli.output import print_table, results

if TYPE_CHECKING:
    from vla_cl.data import FileSummary, Validation

MEGABYTE = 10**6


def verdict(found: Validation) -> str:
    """One line on what came of checking a file."""
    notes = f" (note: {'; '.join(found.notes)})" if found.notes else ""
    if found.sound:
        return f"{found.path}: ok, {found.demonstrations} demonstrations, {found.replayed} replayed{notes}"
    more = f"; {len(found.problems) - 1} more (--json lists all)" if len(found.problems) > 1 else ""
    return f"{found.path}: {found.problems[0]}{more}{notes}"


def print_summaries(summaries: Sequence[FileSummary]) -> None:
    """Write a table of files."""
    columns = ["file", "task", "demonstrations", "steps", "cameras", "MB each", "checksum"]
    print_table(columns, map(_row, summaries))


def _row(summary: FileSummary) -> list[str]:
    return [
        str(summary.path),
        summary.task,
        str(summary.demonstrations),
        _steps(summary),
        _cameras(summary),
        f"{summary.bytes_total / summary.demonstrations / MEGABYTE:.2f}",
        "-" if summary.intact is None else "ok" if summary.intact else "WRONG",
    ]


def print_summary(summary: FileSummary) -> None:
    """Write all there is to say about one file."""
    each = summary.demonstrations
    parts = ", ".join(f"{name} {size / each / MEGABYTE:.3f}" for name, size in summary.bytes_parts.items())
    versions = ", ".join(_version(name, found, summary) for name, found in summary.versions.items())
    noise = "mixed or unknown" if summary.action_noise is None else f"{summary.action_noise:g}"
    seeds = summary.seeds and f"{summary.seeds[0]} to {summary.seeds[1]}, {summary.distinct_seeds} different"
    judged = {None: ", nothing to compare it with", True: ", right", False: ", WRONG: changed after it was written"}
    facts: dict[str, Any] = {
        "file": summary.path,
        "layout": summary.layout + ("" if summary.schema_version is None else f", version {summary.schema_version}"),
        "task": f"{summary.task}: {summary.instruction}",
        "backend": summary.backend,
        "expert": f"{summary.expert or 'unknown'}, action noise {noise}",
        "demonstrations": f"{each}, {summary.successes} of them successful",
        "steps": f"{_steps(summary)} a demonstration, {summary.steps} in all",
        "seeds": seeds or "unknown",
        "cameras": _cameras(summary),
        "privileged state": "yes" if summary.privileged else "no",
        "size": f"{summary.bytes_total / MEGABYTE:.1f} MB, {summary.bytes_total / each / MEGABYTE:.3f} each: {parts}",
        "splits": ", ".join(f"{name} {count}" for name, count in summary.splits.items()) or "none",
        "versions": versions or "unknown",
        "checksum": summary.checksum[:12] + judged[summary.intact],
    }
    for name, fact in facts.items():
        results().print(f"{name:<17} {fact}", markup=False, soft_wrap=True)
    results().print()
    actions = summary.actions
    columns = zip(actions.minimum, actions.mean, actions.deviation, actions.maximum, actions.saturation, strict=True)
    print_table(
        ["action", "min", "mean", "std", "max", "saturated"],
        [
            [str(index), *(f"{value:.3f}" for value in values[:-1]), f"{values[-1]:.0%}"]
            for index, values in enumerate(columns)
        ],
    )


def _version(package: str, found: str, summary: FileSummary) -> str:
    here = summary.versions_here.get(package, "none")
    return f"{package} {found}" + ("" if here == found else f" (here {here})")


def _steps(summary: FileSummary) -> str:
    return f"{summary.steps_minimum} / {summary.steps_mean:.0f} / {summary.steps_maximum}"


def _cameras(summary: FileSummary) -> str:
    return f"{', '.join(summary.cameras)}, {summary.image_size} px" if summary.cameras else "none"
