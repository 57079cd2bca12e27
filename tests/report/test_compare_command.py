"""`vla-cl compare`: what it writes where, what it prints, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vla_cl.cli.main import MISTAKE, main

MakeRun = Callable[..., Path]


@pytest.fixture
def grid(make_run: MakeRun, tmp_path: Path) -> Path:
    """A folder with two finished runs and one that is not."""
    for name in ("sequential", "replay"):
        make_run(tmp_path / "grid" / name, name, videos=False)
    cut = make_run(tmp_path / "grid" / "cut", "sequential", stages=1, config={"seed": 1}, videos=False)
    (cut / "metrics.json").unlink()
    return tmp_path / "grid"


def test_a_folder_of_runs_gets_a_page_with_its_tables_beside_it(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(grid)]) == 0
    told = capsys.readouterr()
    assert [path.name for path in sorted(grid.glob("compare.*"))] == [
        f"compare.{ending}" for ending in ("csv", "html", "json", "md", "tex")
    ]
    assert "replay" in told.out and str(grid / "compare.html") in told.out
    assert f"left out {grid / 'cut'}: it is not finished" in told.err
    page = (grid / "compare.html").read_text(encoding="utf-8")
    assert "1 run is not in the table" in page and "<code>cut</code>: it is not finished" in page


def test_runs_by_name_go_where_they_are_told(grid: Path, tmp_path: Path) -> None:
    words = ["compare", str(grid / "replay"), "--output", str(tmp_path / "new" / "page.html")]
    assert main(words) == 0
    assert (tmp_path / "new" / "page.html").is_file() and (tmp_path / "new" / "page.tex").is_file()
    assert not list(grid.glob("compare.*"))


def test_a_format_is_printed_and_nothing_is_written(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(grid), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["strategy"] for row in rows] == ["replay", "sequential"]
    assert main(["compare", str(grid), "--format", "tex"]) == 0
    assert r"\toprule" in capsys.readouterr().out
    assert not list(grid.glob("compare.*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "xls"], "--format must be one of md, tex, csv, json, got 'xls'"),
        (["--output", "page.pdf"], "--output must name a file that ends in .html, got page.pdf"),
        (["logs"], "logs is not a run and holds none"),
    ],
)
def test_mistakes_are_one_line(
    grid: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(grid)
    assert main(["compare", str(grid), *words]) == MISTAKE
    assert message in capsys.readouterr().err.splitlines()[-1]
