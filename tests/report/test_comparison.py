"""Runs of a grid in one table: which of them share a row, what a row is called, and how it is written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import summarise
from vla_cl.evaluation.report.comparison import compare_runs, row_labels
from vla_cl.evaluation.report.formats import (
    as_csv,
    as_latex,
    as_markdown,
    as_text,
    protocol_letter,
    table,
    write_comparison,
)
from vla_cl.evaluation.report.runs import read_runs

MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, make_run: MakeRun) -> list[Path]:
    """Two strategies, two seeds each; the second seed forgets more."""
    root = tmp_path_factory.mktemp("grid")
    runs = []
    for strategy in ("sequential", "replay"):
        runs.append(make_run(root / f"{strategy}-0", strategy, videos=False))
        worse = [[1, 0, 2], [15, None, None], [4, 17, None], [0, 2, 16]]
        runs.append(make_run(root / f"{strategy}-1", strategy, successes=worse, config={"seed": 1}, videos=False))
    return runs


def test_runs_that_differ_in_seed_and_order_alone_share_a_row(folders: list[Path], make_run: MakeRun) -> None:
    reordered = make_run(folders[0].parent / "order", "sequential", config={"order": "7"}, videos=False)
    rows = compare_runs([*folders, reordered], replicates=50)
    assert [(row.label, row.runs) for row in rows] == [
        ("sequential", ("sequential-0", "sequential-1", "order")),
        ("replay", ("replay-0", "replay-1")),
    ]


def test_a_row_holds_the_mean_of_its_runs(folders: list[Path]) -> None:
    for row, pair in zip(compare_runs(folders, replicates=200), (folders[:2], folders[2:]), strict=True):
        for metric in ("final_average", "forgetting", "learning_accuracy"):
            expected = [summarise(run.rows, run.sequence)[metric] for run in read_runs(pair)]
            found = row.metrics[metric]
            assert found.values == pytest.approx(expected)
            assert found.mean == pytest.approx(sum(expected) / 2)
            assert found.low is not None and found.high is not None
            assert found.low <= found.mean <= found.high
        assert row.metrics["forward_transfer"].mean is None, "the upper triangle was not measured"
        assert row.costs.train_seconds == pytest.approx(3 * 41.5)
        assert row.costs.extra_parameters == 2 * 24_576
        assert row.costs.acting_milliseconds == 3.25


def test_markdown_has_a_line_a_row_and_numbers_with_intervals(folders: list[Path]) -> None:
    lines = as_markdown(compare_runs(folders)).splitlines()
    heading, rule, sequential, replay = ([cell.strip() for cell in text.strip("|").split("|")] for text in lines)
    assert heading == [
        "Strategy", "Runs", "Final average", "Forgetting", "Forward transfer", "Learning accuracy", "Rank",
        "Stored", "Extra parameters", "Extra passes", "Acting passes", "Training", "Acting",
    ]  # fmt: skip
    assert rule == ["---"] + ["---:"] * 12
    assert sequential[:2] == ["sequential", "2"] and replay[:2] == ["replay", "2"]
    assert sequential[2].startswith("0.36 [") and sequential[2].endswith("]")
    assert sequential[4] == "–"
    assert replay[6].startswith("1 [1, ") and sequential[6].startswith("2 [")
    assert replay[7:] == ["12.6 MB", "49,152", "1", "0.5", "2 min 04 s", "3.25 ms"]
    assert all(text.startswith("| ") and text.endswith(" |") for text in lines)


def test_csv_is_exact_and_empty_where_nothing_is_known(folders: list[Path]) -> None:
    rows = compare_runs(folders)
    read = list(csv.DictReader(as_csv(rows).splitlines()))
    assert [entry["strategy"] for entry in read] == ["sequential", "replay"]
    assert float(read[0]["final_average_mean"]) == rows[0].metrics["final_average"].mean
    assert float(read[1]["forgetting_high"]) == rows[1].metrics["forgetting"].high
    assert read[0]["forward_transfer_low"] == ""
    assert read[1]["strategy_bytes"] == "12600000.0"


def test_the_files_of_a_table_say_the_same_every_time(folders: list[Path], tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_comparison(compare_runs(folders), tmp_path / name / "grid", failed=[])
    first, second = (
        {path.name: path.read_text() for path in (tmp_path / name).iterdir()} for name in ("first", "second")
    )
    assert first == second and set(first) == {"grid.json", "grid.md", "grid.tex", "grid.csv"}
    read = json.loads(first["grid.json"])
    assert read["failed"] == [] and read["confidence"] == 0.95
    assert read["rows"][1]["metrics"]["forgetting"]["values"] == pytest.approx([0.025, 0.75])


def test_a_table_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no finished run"):
        write_comparison([], tmp_path / "grid")
    assert not list(tmp_path.iterdir())


def settings(strategy: str, **more: str) -> dict[str, str]:
    return {"strategy.name": strategy, "policy.name": "lowdim", "training.steps": "100"} | {
        key.replace("__", "."): value for key, value in more.items()
    }


def test_a_label_is_the_strategy_where_that_says_it_all() -> None:
    rows = [settings("ewc", strategy__strength="5"), settings("replay", strategy__fraction="0.2")]
    assert row_labels(rows) == ["ewc", "replay"]


def test_options_tell_rows_of_one_strategy_apart() -> None:
    rows = [settings("replay", strategy__fraction=value) for value in ("0", "0.2")] + [settings("sequential")]
    assert row_labels(rows) == ["replay, strategy.fraction=0", "replay, strategy.fraction=0.2", "sequential"]


def test_what_decides_how_numbers_are_measured_is_named_in_every_row() -> None:
    """Two strategies that were trained, or evaluated, differently are no fair comparison without a mark."""
    rows = [settings("replay"), settings("ewc", training__steps="200")]
    assert row_labels(rows) == ["replay, training.steps=100", "ewc, training.steps=200"]
    rows = [settings("replay", evaluation__horizon="null"), settings("ewc", evaluation__horizon="90")]
    assert row_labels(rows) == ["replay, evaluation.horizon=null", "ewc, evaluation.horizon=90"]


def test_policies_are_named_and_their_options_where_they_differ_under_one_name() -> None:
    rows = [settings("ewc", policy__chunk="8"), settings("ewc", policy__name="compact", policy__chunk="16")]
    assert row_labels(rows) == ["ewc, lowdim", "ewc, compact"]
    rows = [settings("ewc", policy__chunk="8"), settings("ewc", policy__chunk="16")]
    assert row_labels(rows) == ["ewc, policy.chunk=8", "ewc, policy.chunk=16"]


def test_latex_has_the_rules_of_booktabs_and_escapes_every_text(folders: list[Path]) -> None:
    rows = compare_runs(folders, replicates=20)
    lines = as_latex([replace(rows[0], label=r"a_b & 50% of {#1} \x~^$"), rows[1]]).splitlines()
    assert lines[1:3] == [r"\begin{tabular}{lrrrrrrrrrrrr}", r"\toprule"]
    assert lines[4] == r"\midrule" and lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    told = r"a\_b \& 50\% of \{\#1\} \textbackslash{}x\textasciitilde{}\textasciicircum{}\$"
    assert lines[5].startswith(told + " & 2 & 0.36 [") and lines[5].endswith(r" \\")
    assert all(line.count(" & ") == 12 for line in (lines[3], *lines[5:7])), "as many columns as are declared"
    assert all(line.isascii() for line in lines), "every LaTeX reads it"


def test_each_format_has_a_name_and_others_are_refused(folders: list[Path]) -> None:
    rows = compare_runs(folders, replicates=20)
    assert json.loads(as_text(rows, "json"))["rows"][1]["rank"]["place"] == 1.0
    assert as_text(rows, "csv").splitlines()[0].startswith("strategy,protocol,runs,final_average_mean,")
    assert [as_text(rows, name)[:1] for name in ("md", "tex")] == ["|", "%"]
    with pytest.raises(ConfigurationError, match="md, tex, csv, json, not as 'xlsx'"):
        as_text(rows, "xlsx")


def test_protocols_are_lettered() -> None:
    assert [protocol_letter(group) for group in (0, 1, 25, 26, 27, 702)] == ["A", "B", "Z", "AA", "AB", "AAA"]


def test_a_table_of_two_protocols_has_a_column_for_them_and_ranks_each_apart(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / str(place), name, config={"evaluation": {"horizon": horizon}}, videos=False)
        for place, (name, horizon) in enumerate((("sequential", 9), ("replay", 9), ("replay", 8), ("sequential", 8)))
    ]
    rows = compare_runs(runs, replicates=20)
    headings, cells = table(rows)
    assert headings[:3] == ["Strategy", "Protocol", "Runs"]
    assert [line[1] for line in cells] == ["A", "A", "B", "B"]
    assert [(row.rank.place, row.rank.among) for row in rows if row.rank] == [(2, 2), (1, 2), (1, 2), (2, 2)]
