"""Runs that were not measured alike: found out by their settings, and marked wherever they stand side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vla_cl.evaluation.report import write_report
from vla_cl.evaluation.report.comparison import compare_runs
from vla_cl.evaluation.report.formats import as_csv, as_markdown
from vla_cl.evaluation.report.protocols import protocol_differences, protocol_groups
from vla_cl.evaluation.report.runs import read_runs

MakeRun = Callable[..., Path]

USUAL = {"episodes": 20, "split": "test", "horizon": None, "processes": 2, "videos": 1}


@pytest.fixture
def folders(make_run: MakeRun, tmp_path: Path) -> Callable[..., list[Path]]:
    """Runs of the given evaluation settings, in turn of "sequential" and "replay"."""

    def made(*evaluations: dict[str, object], **config: object) -> list[Path]:
        strategies = ("sequential", "replay")
        return [
            make_run(
                tmp_path / str(place),
                strategies[place % 2],
                config={"evaluation": USUAL | evaluation, "seed": place, **config},
                videos=False,
            )
            for place, evaluation in enumerate(evaluations)
        ]

    return made


def test_runs_that_differ_in_strategy_seed_and_machine_were_measured_alike(
    folders: Callable[..., list[Path]],
) -> None:
    runs = read_runs(folders({}, {"processes": 8, "videos": 0}))
    assert protocol_differences(runs) == {}
    assert protocol_groups(runs) == (0, 0)


def test_every_setting_of_the_evaluation_in_which_runs_differ_is_told_with_each_runs_value(
    folders: Callable[..., list[Path]],
) -> None:
    runs = read_runs(folders({}, {"split": "selection", "horizon": 90}, {}, {"horizon": 90}))
    assert protocol_differences(runs) == {
        "evaluation.split": ("test", "selection", "test", "test"),
        "evaluation.horizon": ("null", "90", "null", "90"),
    }
    assert protocol_groups(runs) == (0, 1, 0, 2)


def test_early_stopping_is_part_of_the_protocol_and_without_a_rule_it_is_none(
    folders: Callable[..., list[Path]],
) -> None:
    idle = {"early_stop": {"threshold": None, "width": None, "error": 0.01}}
    ruled = {"early_stop": {"threshold": 0.5, "width": None, "error": 0.01}}
    runs = read_runs(folders({}, idle, ruled))
    assert protocol_differences(runs[:2]) == {}
    assert protocol_differences(runs) == {
        "evaluation.early_stop.threshold": ("–", "–", "0.5"),
        "evaluation.early_stop.width": ("–", "–", "null"),
        "evaluation.early_stop.error": ("–", "–", "0.01"),
    }
    assert protocol_groups(runs) == (0, 0, 1)


def test_other_tasks_under_one_name_are_another_protocol_and_another_order_is_not(
    make_run: MakeRun, tmp_path: Path
) -> None:
    names = ("push", "reach", "open")
    told = {"instructions": ("a", "b", "c"), "videos": False}
    paths = [
        make_run(tmp_path / "first", "sequential", tasks=names, **told),
        make_run(tmp_path / "turned", "sequential", tasks=names[::-1], **told),
        make_run(tmp_path / "other", "replay", tasks=("push", "reach", "close"), **told),
        make_run(tmp_path / "suite", "replay", tasks=("push", "reach", "shut"), config={"suite": "mw5"}, **told),
    ]
    first, turned, other, suite = read_runs(paths)
    assert protocol_differences([first, turned]) == {}
    assert protocol_differences([first, other]) == {"tasks": ("open, push, reach", "close, push, reach")}
    assert protocol_differences([first, suite]) == {"suite": ("mw3", "mw5")}
    assert protocol_groups([]) == ()


def test_a_report_of_two_protocols_says_so_and_ranks_nothing(
    folders: Callable[..., list[Path]], tmp_path: Path
) -> None:
    alike = write_report(folders({}, {}), tmp_path / "alike.html").read_text(encoding="utf-8")
    assert "not measured alike" not in alike and 'class="number best"' in alike
    unlike = write_report(folders({}, {"horizon": 90}), tmp_path / "unlike.html").read_text(encoding="utf-8")
    assert "<code>evaluation.horizon</code> is null or 90." in unlike
    assert 'class="number best"' not in unlike and "better run is in bold" not in unlike


def test_a_table_of_two_protocols_names_them_in_every_row(folders: Callable[..., list[Path]]) -> None:
    rows = compare_runs(folders({}, {"split": "selection"}, {"split": "selection"}), replicates=20)
    marks = [
        "sequential, evaluation.split=test",
        "replay, evaluation.split=selection",
        "sequential, evaluation.split=selection",
    ]
    assert [row.label for row in rows] == marks
    assert [row.runs for row in rows] == [("0",), ("1",), ("2",)], "not averaged over two protocols"
    for text in (as_markdown(rows), as_csv(rows)):
        assert all(mark in text for mark in marks)
