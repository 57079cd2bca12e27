"""A report in a real browser: it shows its numbers, plays its videos, asks nobody for anything, and fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest

from vla_cl.evaluation import read_rows, summarise
from vla_cl.evaluation.report import write_report

OVERFLOWING = """
[...document.querySelectorAll("main *")].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width && box.right > document.documentElement.clientWidth + 1 && !element.closest(".scroll, pre, .hidden");
}).map(element => element.outerHTML.slice(0, 120))
"""
"""Elements that stick out of the window and do not lie in a box that scrolls by itself."""

VIDEOS = """
Promise.all([...document.querySelectorAll("video")].map(video => new Promise((done, fail) => {
  const state = () => done({duration: video.duration, width: video.videoWidth, ready: video.readyState});
  video.onerror = () => fail(video.error.message);
  if (video.readyState >= 2) state(); else video.onloadeddata = state;
})))
"""


@pytest.fixture(scope="module")
def report(two_runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(two_runs, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def long_report(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty tasks with long names, half of them learned, in an instruction without a space."""
    root = tmp_path_factory.mktemp("long")
    tasks = [f"a-rather-long-task-name-{index}" for index in range(20)]
    successes = [[(7 * stage + task) % 21 for task in range(20)] for stage in range(-1, 20)]
    runs = [
        make_run(
            root / name,
            name,
            successes=successes,
            tasks=tasks,
            instructions=["x" * 200] * 20,
            stages=10,
            config={"suite": "a_suite_with_a_name_that_is_longer_than_a_telephone_is_wide", "note": "y" * 300},
            videos=False,
        )
        for name in ("sequential", "replay", "a_strategy_with_a_long_name")
    ]
    return write_report(runs, root / "report.html")


def test_the_page_shows_the_numbers_of_the_episode_rows(browser: Any, report: Path, two_runs: list[Path]) -> None:
    browser.open(report)
    cards = browser.evaluate("[...document.querySelectorAll('.card')].map(card => card.innerText)")
    matrices = browser.evaluate(
        "[...document.querySelectorAll('table.matrix')].map(table => [...table.tBodies[0].rows].map("
        "row => [...row.querySelectorAll('td')].map(cell => cell.querySelector('b')?.innerText ?? null)))"
    )
    for run, card, matrix in zip(two_runs, cards, matrices, strict=True):
        rows = [row for path in (run / "episodes").iterdir() for row in read_rows(path)]
        metrics = summarise(rows, ["window-close", "push", "faucet-close"])
        for key in ("learning_accuracy", "final_average", "forgetting"):
            assert f"{metrics[key]:.2f}" in card
        expected = [[None if rate is None else f"{rate:.2f}" for rate in row] for row in metrics["success_matrix"]]
        assert matrix == expected


def test_nothing_is_complained_about_or_asked_for(browser: Any, report: Path) -> None:
    browser.open(report)
    browser.evaluate(VIDEOS)
    assert browser.complaints() == []
    asked = {
        event["params"]["request"]["url"].partition(":")[0]
        for event in browser.events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert asked == {"file", "data"}, "the page itself, and what is inside it"


def test_videos_load_and_play_when_they_are_looked_at(browser: Any, report: Path) -> None:
    browser.open(report)
    videos = browser.evaluate(VIDEOS)
    assert len(videos) == 6
    assert all(video["duration"] == pytest.approx(2.0, abs=0.2) and video["width"] == 64 for video in videos)
    playing = browser.evaluate(
        "new Promise(done => { const video = document.querySelector('video'); video.scrollIntoView();"
        "video.ontimeupdate = () => { if (video.currentTime > 0) done(!video.paused && video.muted); } })"
    )
    assert playing


@pytest.mark.parametrize("width", [1280, 800, 400])
@pytest.mark.parametrize("which", ["report", "long_report"])
def test_nothing_sticks_out_of_the_window(browser: Any, request: pytest.FixtureRequest, which: str, width: int) -> None:
    browser.open(request.getfixturevalue(which), width=width)
    browser.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate(OVERFLOWING) == []


def test_it_follows_the_colours_that_the_reader_prefers(browser: Any, report: Path, tmp_path: Path) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        browser.open(report, scheme=scheme)
        picture = imageio.imread(browser.screenshot(tmp_path / f"{scheme}.png"))[..., :3]
        brightness[scheme] = float(np.median(picture))
    assert brightness["light"] > 240
    assert brightness["dark"] < 40


def test_print_is_light_and_holds_what_was_folded_away(browser: Any, report: Path, tmp_path: Path) -> None:
    browser.open(report, width=800, scheme="dark", media="print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate("document.querySelector('details pre').checkVisibility({contentVisibilityAuto: true})")


def test_an_instruction_cannot_bring_a_script(browser: Any, make_run: Callable[..., Path], tmp_path: Path) -> None:
    attack = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
    run = make_run(tmp_path / "run", "sequential", instructions=(attack, "b", "c"), videos=False)
    browser.open(write_report([run], tmp_path / "report.html"))
    assert browser.evaluate("document.title") == "Continual learning on mw3"
    assert attack in browser.evaluate("document.querySelector('.instruction').textContent")
    assert browser.complaints() == []


def test_an_accessibility_checker_finds_nothing(browser: Any, report: Path) -> None:
    """With axe-core, where somebody installed it."""
    package = pytest.importorskip("axe_core_python", reason="pip install axe-core-python checks accessibility")
    browser.open(report)
    browser.evaluate((Path(package.__file__).parent / "axe.min.js").read_text() + "; 0")
    assert browser.evaluate("axe.run().then(result => result.violations.map(each => each.id))") == []
