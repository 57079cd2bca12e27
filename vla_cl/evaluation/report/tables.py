"""The tables of a report: metrics, ledger, settings, versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from vla_cl.evaluation.report.catalogue import (
    ACTING_SECONDS,
    ACTING_TIME,
    HIGHER,
    LEDGER_BYTES,
    LEDGER_COUNTS,
    LEDGER_JOULES,
    LEDGER_PASSES,
    LEDGER_SECONDS,
    LEDGER_STEPS,
    METRICS,
    NEEDS,
)
from vla_cl.evaluation.report.heat_map import decimal
from vla_cl.evaluation.report.runs import Run
from vla_cl.evaluation.totals import ledger_totals

MISSING = "–"
"""What a number that does not exist looks like."""

NOT_MEASURED = "not measured"
"""What an energy looks like that the machine does not tell."""


@dataclass(frozen=True)
class Entry:
    """One number in a table.

    Args:
        text: As shown.
        exact: As computed, shown on hovering.
        best: Whether no other run of the row is better.
    """

    text: str
    exact: str = ""
    best: bool = False


@dataclass(frozen=True)
class Line:
    """One row of a table, with an entry a run.

    Args:
        title: What the row is.
        entries: One a run.
        note: A definition.
        arrow: "↑" where higher is better, "↓" where lower is, else "".
        group: Whether this row is a heading of those that follow.
    """

    title: str
    entries: tuple[Entry, ...]
    note: str | Markup = ""
    arrow: str = ""
    group: bool = False


def metric_lines(runs: Sequence[Run], rank: bool = True) -> list[Line]:
    """Every metric of the catalogue, with the best run marked where runs differ, if they may be ranked."""
    lines = []
    for metric in METRICS:
        values = [number(run.metrics.get(metric.key)) for run in runs]
        sign = 1 if metric.direction == HIGHER else -1
        known = [sign * value for value in values if value is not None]
        best = max(known) if rank and len(known) > 1 and min(known) < max(known) else None
        entries = tuple(
            Entry(MISSING) if value is None else Entry(decimal(value), f"{value:.6g}", sign * value == best)
            for value in values
        )
        lines.append(Line(metric.title, entries, metric.meaning, "↑" if sign > 0 else "↓"))
    return lines


def needs_line(runs: Sequence[Run]) -> Line:
    """What each strategy declares that it needs beyond the present task's data."""
    entries = []
    for run in runs:
        needed = [NEEDS.get(key, key) for key, value in run.needs.items() if value]
        entries.append(Entry(", ".join(needed) or "nothing") if run.needs else Entry(MISSING))
    return Line("Needs beyond the task's data", tuple(entries), "Declared by the strategy, enforced by the runner.")


def ledger_lines(runs: Sequence[Run]) -> list[Line]:
    """What a run ended with in bytes and parameters, and what it spent: passes, control steps, seconds, joules."""
    sizes = [
        Line(title, tuple(_bytes_entry(last_entry(run, key)) for run in runs)) for key, title in LEDGER_BYTES.items()
    ]
    counts = [
        Line(title, tuple(_count_entry(last_entry(run, key)) for run in runs)) for key, title in LEDGER_COUNTS.items()
    ]
    passes = [
        Line(title, tuple(_number_entry(last_entry(run, key)) for run in runs)) for key, title in LEDGER_PASSES.items()
    ]
    acting = Line(ACTING_TIME, tuple(_milliseconds_entry(last_entry(run, "acting_milliseconds")) for run in runs))
    times = [
        Line(title, tuple(_seconds_entry(total_of_entries(run, key)) for run in runs))
        for key, title in LEDGER_SECONDS.items()
    ]
    totals = [ledger_totals(run.ledger) for run in runs]
    deciding = Line(ACTING_SECONDS, tuple(_seconds_entry(total["acting_seconds"]) for total in totals))
    steps = [Line(title, tuple(_count_entry(total[key]) for total in totals)) for key, title in LEDGER_STEPS.items()]
    energy = [Line(title, tuple(_joules_entry(total[key]) for total in totals)) for key, title in LEDGER_JOULES.items()]
    told = Line("Measured is that of", tuple(Entry(", ".join(run.energy_of) or "nothing") for run in runs))
    together = Line("Together", tuple(_seconds_entry(total_of_entries(run, *LEDGER_SECONDS)) for run in runs))
    nothing = tuple(Entry("") for _ in runs)
    return [
        Line("Memory after the last stage", nothing, group=True),
        *sizes,
        *counts,
        Line("Work beyond what every strategy does", nothing, group=True),
        *passes,
        Line("Time over all stages", nothing, group=True),
        *times,
        together,
        deciding,
        acting,
        Line("Control steps over all stages", nothing, group=True),
        *steps,
        Line("Energy over all stages", nothing, group=True),
        *energy,
        told,
    ]


def stage_lines(run: Run) -> list[Line]:
    """The ledger of one run, a row a stage."""
    lines = []
    for index, entry in enumerate(run.ledger):
        entries = [_bytes_entry(number(entry.get(key))) for key in LEDGER_BYTES]
        entries += [_seconds_entry(number(entry.get(key))) for key in LEDGER_SECONDS]
        stage = entry.get("stage", index)
        title = f"{stage + 1} {entry.get('task', '')}" if isinstance(stage, int) and stage >= 0 else "zero-shot"
        lines.append(Line(title.strip(), tuple(entries)))
    return lines


def setting_lines(settings: Sequence[Mapping[str, Any]], *, differing: bool) -> list[Line]:
    """Flattened settings of several runs side by side: those that differ, or all."""
    flat = [dict(flattened(setting)) for setting in settings]
    keys = list(dict.fromkeys(key for each in flat for key in each))
    lines = [Line(key, tuple(Entry(each.get(key, MISSING)) for each in flat)) for key in keys]
    return [line for line in lines if not differing or len({entry.text for entry in line.entries}) > 1]


def number(value: Any) -> float | None:
    """A finite number of a JSON file, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return float(value)


def human_bytes(count: float) -> str:
    """A size in decimal units, three significant digits: "4.25 MB"."""
    if count < 999.5:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5:
            return f"{count:#.3g}".rstrip(".") + f" {unit}"
    return f"{count / 1000:#.3g} TB"


def human_seconds(seconds: float) -> str:
    """A duration: "8.3 s", "4 min 05 s" or "2 h 13 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def human_joules(joules: float) -> str:
    """An energy, three significant digits: "850 J", "3.20 MJ"."""
    for unit in ("J", "kJ", "MJ"):
        if joules < 999.5:
            return f"{joules:#.3g}".rstrip(".") + f" {unit}"
        joules /= 1000
    return f"{joules:#.3g}".rstrip(".") + " GJ"


def last_entry(run: Run, key: str) -> float | None:
    """What the ledger says of a quantity after the last stage that says anything."""
    values = [value for entry in run.ledger if (value := number(entry.get(key))) is not None]
    return values[-1] if values else None


def total_of_entries(run: Run, *keys: str) -> float | None:
    """The sum of quantities over all stages; None where the ledger says nothing of them."""
    values = [value for key in keys for entry in run.ledger if (value := number(entry.get(key))) is not None]
    return sum(values) if values else None


def _bytes_entry(value: float | None) -> Entry:
    return Entry(MISSING) if value is None else Entry(human_bytes(value), f"{value:,.0f} bytes")


def _seconds_entry(value: float | None) -> Entry:
    return Entry(MISSING) if value is None else Entry(human_seconds(value), f"{value:.3f} seconds")


def _joules_entry(value: float | None) -> Entry:
    return Entry(NOT_MEASURED) if value is None else Entry(human_joules(value), f"{value:,.1f} joules")


def _number_entry(value: float | None) -> Entry:
    return Entry(MISSING) if value is None else Entry(f"{value:.3g}", f"{value:.6g}")


def _milliseconds_entry(value: float | None) -> Entry:
    return Entry(MISSING) if value is None else Entry(f"{value:#.3g} ms", f"{value:.6g} milliseconds")


def _count_entry(value: float | None) -> Entry:
    return Entry(MISSING) if value is None else Entry(f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}"))


def flattened(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Settings by dotted keys, values as YAML would write them."""
    for key, each in value.items():
        if isinstance(each, Mapping) and each:
            yield from flattened(each, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _plain(each)


def _plain(value: Any) -> str:
    """A setting as YAML would write it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return "[" + ", ".join(_plain(each) for each in value) + "]"
        case dict():
            return "{" + ", ".join(f"{key}: {_plain(each)}" for key, each in value.items()) + "}"
    return str(value)
