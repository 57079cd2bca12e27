"""`compare.html` in a real browser: it filters, sorts, ranks and plays films, without a mouse and without a network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import summarise
from vla_cl.evaluation.report.compare import write_compare_page
from vla_cl.evaluation.report.comparison import Row, compare_runs, finished_runs
from vla_cl.evaluation.report.ranks import ranks

MakeRun = Callable[..., Path]

WORSE = [[1, 0, 2], [15, None, None], [4, 17, None], [0, 2, 16]]
BETTER = [[1, 0, 2], [20, None, None], [19, 19, None], [19, 19, 20]]

SHOWN = """
((selector) => [...document.querySelectorAll(selector)].filter(each => each.checkVisibility()).length)
"""
LABELS = """
[...document.querySelectorAll('.results tbody tr')].filter(each => each.checkVisibility())
  .map(each => each.cells[0].textContent.trim())
"""
OVERFLOWING = """
[...document.querySelectorAll("main *, form *")].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width && box.right > document.documentElement.clientWidth + 1 &&
    !element.closest(".scroll, pre, .hidden, .facet fieldset, svg");
}).map(element => element.outerHTML.slice(0, 120))
"""
FOCUSABLE = """
[...document.querySelectorAll('a[href], button, input, select, summary, video, [tabindex="0"]')].filter(each =>
  each.checkVisibility() && each.tabIndex >= 0 && !each.disabled && !(each.type === 'radio' && !each.checked)
).map(each => [...document.querySelectorAll('*')].indexOf(each))
"""
FOCUSED = """
(() => {
  const each = document.activeElement;
  if (each === document.body) return null;
  const style = getComputedStyle(each), mark = each.querySelector('.mark');
  const ringed = style.outlineStyle !== 'none' || (mark && parseFloat(getComputedStyle(mark).strokeWidth) > 2);
  const all = [...document.querySelectorAll('*')];
  return [all.indexOf(each), ringed, each.outerHTML.slice(0, 90)];
})()
"""


def filmed(run: Path, tasks: list[str], make_film: Callable[..., None]) -> None:
    """Films of each task right after it was learned, too."""
    for stage, task in enumerate(tasks):
        make_film(run / f"videos/stage_{stage:02d}/{task}.mp4", seed=stage)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, make_run: MakeRun, make_film: Callable[..., None]) -> list[Path]:
    """Three strategies, two seeds each; the first is filmed."""
    root = tmp_path_factory.mktemp("grid")
    runs = []
    for strategy, table in (("sequential", None), ("replay", None), ("ewc", WORSE)):
        for seed in (0, 1):
            counts = {"successes": table or (WORSE if seed and strategy == "sequential" else None)}
            if strategy == "replay" and seed:
                counts = {"successes": BETTER}
            film = strategy == "sequential" and seed == 0
            run = make_run(root / f"{strategy}-{seed}", strategy, config={"seed": seed}, videos=film, **counts)
            if film:
                filmed(run, ["window-close", "push", "faucet-close"], make_film)
            runs.append(run)
    return runs


@pytest.fixture(scope="module")
def rows(folders: list[Path]) -> list[Row]:
    return compare_runs(folders, replicates=200)


@pytest.fixture(scope="module")
def page(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_compare_page(rows, tmp_path_factory.mktemp("page") / "compare.html", left_out=[("lost", "disk full")])


def shown(browser: Any, selector: str) -> int:
    return int(browser.evaluate(f"{SHOWN}({json.dumps(selector)})"))


def choose(browser: Any, key: str, *values: str) -> None:
    for value in values:
        browser.evaluate(f"document.querySelector('input[name={key}][value=\"{value}\"]').click()")


def write(browser: Any, words: str) -> None:
    browser.evaluate(
        f"(() => {{ const field = document.getElementById('words'); field.value = {json.dumps(words)};"
        "field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def test_a_line_a_strategy_holds_the_numbers_of_its_row(browser: Any, page: Path, rows: list[Row]) -> None:
    browser.open(page)
    assert browser.evaluate(LABELS) == ["sequential", "replay", "ewc"]
    for index, row in enumerate(rows):
        cells = browser.evaluate(
            f"[...document.querySelectorAll('#row-{index} td')].map(cell => cell.innerText.trim())"
        )
        final, forgetting = row.metrics["final_average"], row.metrics["forgetting"]
        assert cells[:3] == [
            "2",
            f"{final.mean:.2f} [{final.low:.2f}, {final.high:.2f}]",
            f"{forgetting.mean:.2f} [{forgetting.low:.2f}, {forgetting.high:.2f}]".replace("-", "−"),
        ]
        assert row.rank is not None and cells[5].startswith(f"{row.rank.place:g} [")
    assert shown(browser, ".multiples figure") == shown(browser, ".minis figure") == 3
    assert browser.evaluate("document.getElementById('count').textContent") == "6 of 6 runs"
    assert "disk full" in browser.evaluate("document.body.textContent")


def test_a_strategy_is_chosen_everywhere_at_once(browser: Any, page: Path) -> None:
    browser.open(page)
    choose(browser, "strategy", "replay", "ewc")
    assert browser.evaluate(LABELS) == ["replay", "ewc"]
    assert browser.evaluate("document.getElementById('count').textContent") == "4 of 6 runs"
    for selector in (
        ".multiples figure",
        ".minis figure",
        ".sparks tbody tr",
        ".ranks tbody tr",
        ".settings-list tbody tr",
    ):
        assert shown(browser, selector) == 2, selector
    assert shown(browser, ".pair") == 0, "only sequential was filmed"
    assert browser.evaluate("[...document.querySelectorAll('#failure-lines tr:not([hidden]) th')].every("
                            "each => !each.textContent.includes('sequential'))")  # fmt: skip
    browser.evaluate("document.querySelector('button[type=reset]').click()")
    browser.evaluate("new Promise(done => setTimeout(done))")
    assert browser.evaluate(LABELS) == ["sequential", "replay", "ewc"]


def test_a_seed_shows_runs_by_themselves_with_their_own_numbers(browser: Any, page: Path, rows: list[Row]) -> None:
    browser.open(page)
    choose(browser, "seed", "1")
    assert browser.evaluate(LABELS) == ["sequential, seed 1", "replay, seed 1", "ewc, seed 1"]
    found = browser.evaluate(
        "[...document.querySelectorAll('.results tr.of-run:not([hidden])')].map(each => each.cells[2].innerText.trim())"
    )
    runs = [row.members[1] for row in rows]
    assert found == [f"{summarise(run.rows, run.sequence)['final_average']:.2f}" for run in runs]
    assert shown(browser, ".ranks") == 0, "ranks are of means"
    assert shown(browser, ".minis figure") == 3 and shown(browser, ".scatter .point") == 6
    assert browser.evaluate("document.getElementById('by-run').disabled")


def test_text_finds_names_settings_and_folders(browser: Any, page: Path) -> None:
    browser.open(page)
    for words, expected in (
        ("REPLAY", ["replay"]),
        ("fraction=0.2", ["replay"]),
        ("ewc-1", ["ewc, seed 1"]),
        ("sequential seed", ["sequential"]),
    ):
        write(browser, words)
        assert browser.evaluate(LABELS) == expected, words
    write(browser, "nothing like it")
    assert shown(browser, "#nothing") == 1 and shown(browser, "section") == 0
    browser.evaluate("document.getElementById('show-all').click()")
    browser.evaluate("new Promise(done => setTimeout(done))")
    assert shown(browser, "#nothing") == 0 and len(browser.evaluate(LABELS)) == 3


def test_a_task_is_chosen_among_curves_films_and_failures(browser: Any, page: Path) -> None:
    browser.open(page)
    browser.evaluate(
        "(() => { const task = document.getElementById('task'); task.value = 'push';"
        "task.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    heads = browser.evaluate(
        "[...document.querySelectorAll('.sparks thead th')].filter(each => each.checkVisibility())"
        ".map(each => each.innerText)"
    )
    assert heads == ["Strategy", "push"]
    assert browser.evaluate("[...document.querySelectorAll('.task-films h3')].filter(each => each.checkVisibility())"
                            ".map(each => each.innerText)") == ["push"]  # fmt: skip
    assert browser.evaluate("[...document.querySelectorAll('#failure-lines tr:not([hidden])')].every("
                            "each => each.dataset.task === 'push')")  # fmt: skip


def test_ranks_are_those_among_what_is_shown(browser: Any, page: Path, rows: list[Row]) -> None:
    browser.open(page)
    for chosen in ((0, 1, 2), (0, 2)):
        if len(chosen) < 3:
            choose(browser, "strategy", *(rows[index].label for index in chosen))
        means = [rows[index].metrics["final_average"].mean for index in chosen]
        expected = ranks(means, np.array([rows[index].final_averages for index in chosen]))
        for index, rank in zip(chosen, expected, strict=True):
            text = browser.evaluate(f"document.querySelector('.ranks tr[data-row=\"{index}\"] .rank').textContent")
            assert text == f"{rank.place:g} [{round(rank.low, 1):g}, {round(rank.high, 1):g}]"
            assert browser.evaluate(f"document.querySelector('#row-{index} .rank').textContent") == text
    order = browser.evaluate("[...document.querySelectorAll('.ranks tbody tr')].filter(each => each.checkVisibility())"
                             ".map(each => each.cells[0].innerText)")  # fmt: skip
    assert order == (["sequential", "ewc"] if means[0] > means[1] else ["ewc", "sequential"])


def test_a_heading_sorts_and_says_how(browser: Any, page: Path) -> None:
    browser.open(page)
    heading = "document.querySelectorAll('.results .sort')[2]"
    browser.evaluate(f"{heading}.click()")
    assert browser.evaluate(f"{heading}.parentElement.ariaSort") == "descending"
    assert browser.evaluate(LABELS)[0] == "replay"
    browser.evaluate(f"{heading}.click()")
    assert browser.evaluate(f"{heading}.parentElement.ariaSort") == "ascending"
    assert browser.evaluate(LABELS)[-1] == "replay"


def test_the_front_holds_what_nothing_shown_beats(browser: Any, page: Path, rows: list[Row]) -> None:
    browser.open(page)
    best = (
        "[...document.querySelectorAll('.scatter')].map(plot => [...plot.querySelectorAll('.best.of-row .label')]"
        ".map(each => each.textContent))"
    )
    by_bytes, by_seconds = browser.evaluate(best)
    finals = {row.label: row.metrics["final_average"].mean or 0.0 for row in rows}
    free = max(("sequential", "ewc"), key=lambda label: finals[label])
    assert by_bytes == [free, "replay"], "replay stores and is best; of the others, which store nothing, one counts"
    assert by_seconds == ["replay"], "all took equally long"
    choose(browser, "strategy", "sequential", "ewc")
    assert browser.evaluate(best)[1] == [free]


def test_every_control_is_reached_by_tab_and_shows_that_it_is(browser: Any, page: Path) -> None:
    browser.open(page)
    browser.call("Page.bringToFront")
    expected = browser.evaluate(FOCUSABLE)
    reached, unmarked = [], []
    for _ in range(len(expected) + 60):  # the parts of a video's controls are stops of their own
        browser.press("Tab", 9)
        focused = browser.evaluate(FOCUSED)
        if focused is None:
            break
        index, ringed, markup = focused
        reached.append(index)
        if not ringed:
            unmarked.append(markup)
    assert set(expected) <= set(reached)
    assert reached == sorted(reached), "in the order in which it is read"
    assert unmarked == []
    assert "Skip" in browser.evaluate("document.querySelector('a').textContent")


def test_arrow_keys_move_among_points_and_tell_them(browser: Any, page: Path) -> None:
    browser.open(page)
    browser.call("Page.bringToFront")
    browser.evaluate("document.querySelector('.scatter .point[tabindex=\"0\"]').focus()")
    told = [browser.evaluate("document.querySelector('.pointed').textContent")]
    for _ in range(3):
        browser.press("ArrowRight", 39)
        told.append(browser.evaluate("document.querySelector('.pointed').textContent"))
    assert len(set(told)) == 3 and told[0] == told[3], "around all three"
    assert all("final average" in text and "stored" in text for text in told)
    assert browser.evaluate("document.querySelectorAll('.scatter')[0].querySelectorAll('[tabindex=\"0\"]').length") == 1


def test_films_stand_before_and_after_and_forgotten_ones_are_marked(browser: Any, page: Path) -> None:
    browser.open(page)
    pairs = browser.evaluate(
        "[...document.querySelectorAll('.pair')].map(pair => [pair.closest('[data-task]').dataset.task, "
        "pair.classList.contains('forgotten'), [...pair.querySelectorAll('.outcome')].map(each => each.innerText)])"
    )
    assert pairs == [
        ["window-close", False, ["success in 60 steps", "success in 60 steps"]],
        ["push", False, ["success in 60 steps", "success in 60 steps"]],
    ], "the task learned last has no after"
    playing = browser.evaluate(
        "new Promise(done => { const film = document.querySelector('video'); film.scrollIntoView();"
        "film.ontimeupdate = () => { if (film.currentTime > 0) done(!film.paused && film.muted); };"
        "document.getElementById('play').click(); })"
    )
    assert playing
    browser.evaluate("document.getElementById('forgotten-only').click()")
    assert shown(browser, ".pair") == 0


def test_a_forgotten_state_is_found_and_comes_first_when_there_is_little_room(
    folders: list[Path], tmp_path: Path, browser: Any
) -> None:
    run = tmp_path / "run"
    shutil.copytree(folders[0], run)
    path = run / "episodes/stage_02.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["task"] == "push" and line["episode"] == 0:
            line.update(success=False, steps=200, failure="unstable")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    size = 4 / 3 * 1e-6 * sum((run / f"videos/stage_{stage:02d}/push.mp4").stat().st_size for stage in (1, 2))
    browser.open(write_compare_page(compare_runs([run]), tmp_path / "page.html", film_megabytes=1.01 * size))
    assert browser.evaluate(
        "[...document.querySelectorAll('.pair')].map(pair => pair.innerText.includes('forgotten'))"
    ) == [True]
    assert "1 more pair does not fit" in browser.evaluate(
        "document.querySelector('[aria-labelledby=rollouts]').innerText"
    )
    line = browser.evaluate("document.querySelector('#failure-lines tr[data-task=push]').innerText")
    assert "2000000" in line and "unstable 1" in line


def test_runs_that_were_not_measured_alike_stand_apart(make_run: MakeRun, tmp_path: Path, browser: Any) -> None:
    runs = [
        make_run(
            tmp_path / f"{index}", strategy, config={"evaluation": {"episodes": 20, "horizon": horizon}}, videos=False
        )
        for index, (strategy, horizon) in enumerate((("sequential", 200), ("replay", 200), ("replay", 90)))
    ]
    browser.open(write_compare_page(compare_runs(runs, replicates=50), tmp_path / "page.html"))
    assert browser.evaluate("[...document.querySelectorAll('.protocol')].map(each => each.innerText)") == [
        "A Measured under protocol A",
        "B Measured under protocol B",
    ]
    assert "evaluation.horizon=90" in browser.evaluate("document.querySelectorAll('.group')[1].innerText")
    assert shown(browser, ".results") == 2 and shown(browser, ".ranks") == 1, "one strategy alone has no rank"
    marks = "[...document.querySelectorAll('.multiples .letter')].map(each => each.innerText)"
    assert browser.evaluate(marks) == ["A", "A", "B"]


def test_nothing_is_complained_about_or_asked_for(browser: Any, page: Path) -> None:
    browser.open(page)
    choose(browser, "strategy", "replay")
    choose(browser, "seed", "0")
    assert browser.complaints() == []
    asked = {
        event["params"]["request"]["url"].partition(":")[0]
        for event in browser.events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert asked == {"file", "data"}, "the page itself, and what is inside it"


@pytest.mark.parametrize("width", [1400, 500])
def test_nothing_sticks_out_of_the_window(browser: Any, page: Path, width: int) -> None:
    browser.open(page, width=width)
    browser.evaluate("document.querySelectorAll('main details').forEach(each => each.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate(OVERFLOWING) == []


def test_it_follows_the_colours_that_the_reader_prefers(browser: Any, page: Path, tmp_path: Path) -> None:
    for scheme, bright in (("light", True), ("dark", False)):
        browser.open(page, scheme=scheme)
        picture = imageio.imread(browser.screenshot(tmp_path / f"{scheme}.png"))[..., :3]
        assert (float(np.median(picture)) > 240) == bright and (float(np.median(picture)) < 40) != bright


def test_print_is_light_and_leaves_the_controls_out(browser: Any, page: Path) -> None:
    browser.open(page, width=800, scheme="dark", media="print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert shown(browser, "form, nav, .skip, #play") == 0
    assert browser.evaluate("document.querySelector('details li').checkVisibility({contentVisibilityAuto: true})")
    widest = "Math.max(...[...document.querySelectorAll('table')].map(each => each.getBoundingClientRect().width))"
    browser.open(page, width=1030, media="print")
    assert browser.evaluate(widest) <= 1030, "a sheet on its side, without its margins"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_accessibility_checker_finds_nothing(browser: Any, page: Path, scheme: str) -> None:
    """With axe-core, where somebody installed it."""
    package = pytest.importorskip("axe_core_python", reason="pip install axe-core-python checks accessibility")
    browser.open(page, scheme=scheme)
    browser.evaluate((Path(package.__file__).parent / "axe.min.js").read_text() + "; 0")
    found = browser.evaluate("axe.run().then(result => result.violations.map(each => "
                             "[each.id, each.nodes.slice(0, 3).map(node => node.html.slice(0, 120))]))")  # fmt: skip
    assert found == []


def test_text_from_a_run_cannot_bring_a_script(make_run: MakeRun, tmp_path: Path, browser: Any) -> None:
    attack = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
    run = make_run(
        tmp_path / "run",
        "sequential",
        tasks=("a&b", "<i>", "c"),
        config={"suite": attack, "strategy": {"name": attack}, "order": attack},
        videos=False,
    )
    other = make_run(tmp_path / "other", "replay", videos=False)
    browser.open(write_compare_page(compare_runs([run, other], replicates=20), tmp_path / "page.html"))
    assert "taken'" in browser.evaluate("document.title") and browser.evaluate("document.title") != "taken"
    assert attack in browser.evaluate("document.querySelector('.results').textContent")
    assert browser.complaints() == []


def test_equal_runs_give_equal_pages_and_an_empty_table_none(rows: list[Row], tmp_path: Path) -> None:
    first = write_compare_page(rows, tmp_path / "first.html").read_bytes()
    assert write_compare_page(rows, tmp_path / "second.html").read_bytes() == first
    with pytest.raises(ConfigurationError, match="no finished run"):
        write_compare_page([], tmp_path / "none.html")


def test_finished_runs_are_found_in_folders_and_others_are_named(folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "grid").mkdir()
    for folder in folders[:3]:
        shutil.copytree(folder, tmp_path / "grid" / folder.name)
    (tmp_path / "grid" / "logs").mkdir()
    cut = tmp_path / "grid" / folders[1].name
    (cut / "metrics.json").unlink()
    found, left_out = finished_runs([tmp_path / "grid", tmp_path / "grid" / folders[0].name, folders[3]])
    assert [path.name for path in found] == [folders[2].name, folders[0].name, folders[3].name]
    assert left_out == [(cut, "it is not finished")]
    with pytest.raises(ConfigurationError, match="is not a run and holds none"):
        finished_runs([tmp_path / "grid" / "logs"])
    with pytest.raises(ConfigurationError, match="none of the 1 runs is finished"):
        finished_runs([cut])
