"""What a grid shows: a table that is redrawn on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live

from vla_cl.cli.grid_progress import LiveTable, LogLines, watching
from vla_cl.config import compose
from vla_cl.grid import GridRun, State, grid_runs


@pytest.fixture
def runs(tmp_path: Path) -> list[GridRun]:
    return grid_runs(compose(["suite=mw5", "policy=lowdim", "strategy=replay", "seed=0,1", f"output={tmp_path}"]))


def test_elsewhere_every_line_carries_the_name_of_its_run(
    runs: list[GridRun], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="vla_cl"), watching(runs) as watcher:
        assert isinstance(watcher, LogLines)
        runs[0].state = State.RUNNING
        watcher.changed(runs[0])
        watcher.line(runs[0], "training push: 3.0 s")
        watcher.look(runs)
        runs[0].state, runs[0].reason = State.FAILED, "the disk is full"
        watcher.changed(runs[0])
    name = runs[0].name
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", f"{name} running; 1 waiting, 1 running, 0 done, 0 failed"),
        ("INFO", f"{name}: training push: 3.0 s"),
        ("WARNING", f"{name} failed: the disk is full; 1 waiting, 0 running, 0 done, 1 failed"),
    ]


def test_on_a_terminal_lines_go_above_a_table_that_is_redrawn(runs: list[GridRun]) -> None:
    written = io.StringIO()
    with Live(
        console=Console(file=written, force_terminal=True, highlight=False, width=150), auto_refresh=False
    ) as live:
        watcher = LiveTable(live, runs)
        runs[1].state = State.RUNNING
        watcher.changed(runs[1])
        watcher.line(runs[1], "loss [red] is nan")
        watcher.look(runs)
        drawn = written.getvalue()
        watcher.look(runs)
        assert written.getvalue() == drawn, "folders are not looked into all the time"
        runs[0].state, runs[0].reason = State.WAITING, "its process was killed"
        watcher.changed(runs[0])
    text = written.getvalue()
    assert f"{runs[1].name}: loss [red] is nan" in text
    assert f"{runs[0].name}: waiting: its process was killed" in text
    assert "evaluating before the first of 5 tasks" in text and "1 waiting, 1 running, 0 done, 0 failed" in text
