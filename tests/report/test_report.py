"""What is written in a report, and what happens with runs that are unfinished, unlike or not runs at all."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import EpisodeRow, read_rows, summarise
from vla_cl.evaluation.report import write_report

MakeRun = Callable[..., Path]


class Page(HTMLParser):
    """The tables and the attributes of a page, as a browser would see them.

    `rows` holds the texts of each table row's cells, `attributes` every (tag, name, value).
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.rows: list[list[str]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self._cell = False
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell:
            self.rows[-1][-1] += data

    def row(self, title: str) -> list[str]:
        """The cells of the first row that starts with a title."""
        return next(row for row in self.rows if row and row[0].strip().startswith(title))[1:]

    def values(self, name: str) -> list[str]:
        """All values of an attribute."""
        return [value for _, attribute, value in self.attributes if attribute == name]


def rows_of(run: Path) -> list[EpisodeRow]:
    return [row for path in sorted((run / "episodes").iterdir()) for row in read_rows(path)]


def sequence_of(run: Path) -> list[str]:
    return [task["name"] for task in json.loads((run / "sequence.json").read_text())]


def shown(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


@pytest.fixture(scope="module")
def page(two_runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(two_runs, tmp_path_factory.mktemp("report") / "report.html"))


def test_the_metrics_of_every_run_are_those_recomputed_from_its_episode_rows(page: Page, two_runs: list[Path]) -> None:
    titles = {
        "learning_accuracy": "Learning accuracy",
        "final_average": "Final average",
        "forgetting": "Forgetting",
        "backward_transfer": "Backward transfer",
    }
    for index, run in enumerate(two_runs):
        metrics = summarise(rows_of(run), sequence_of(run))
        for key, title in titles.items():
            assert page.row(title)[index] == shown(metrics[key]), (run.name, key)


def test_metrics_do_not_come_from_metrics_json(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "sequential", videos=False)
    (run / "metrics.json").write_text(json.dumps({"final_average": 0.123, "forgetting": 0.456}))

    page = Page(write_report([run], tmp_path / "report.html"))

    assert "0.12" not in page.row("Final average")[0]


def test_the_better_run_is_in_bold(page: Page) -> None:
    bold = re.findall(r'<td class="number best"[^>]*>([^<]*)<', page.source)
    assert shown(0.9) in bold, "final average of replay"
    assert shown(17 / 20 - 1 / 20) not in bold


def test_every_cell_tells_its_counts_and_its_wilson_interval(page: Page, two_runs: list[Path]) -> None:
    described = page.values("title")
    for run in two_runs:
        rows, sequence = rows_of(run), sequence_of(run)
        intervals = summarise(rows, sequence)["intervals"]
        for stage in range(-1, len(sequence)):
            for column, task in enumerate(sequence):
                outcomes = [row.success for row in rows if (row.stage, row.task) == (stage, task)]
                if outcomes:
                    low, high = intervals[stage + 1][column]
                    when = f"after {stage + 1} {sequence[stage]}" if stage >= 0 else "before any training"
                    rate = sum(outcomes) / len(outcomes)
                    assert (
                        f"{task} {when}: {sum(outcomes)} of {len(outcomes)} episodes, "
                        f"{shown(rate)} [{shown(low)}, {shown(high)}]"
                    ) in described
                else:
                    assert any(text.startswith(f"{task} after") and "not measured" in text for text in described)


def test_the_summary_names_the_largest_drop(page: Page) -> None:
    text = " ".join(page.text.split())
    assert "The largest drop is window-close, from 0.95 to 0.05." in text


def test_the_needs_that_strategies_declare_are_printed(page: Page) -> None:
    assert page.row("Needs beyond") == [
        "nothing",
        "demonstrations of earlier tasks",
        "Declared by the strategy, enforced by the runner.",
    ]


def test_bytes_and_seconds_are_summed_over_stages(page: Page) -> None:
    assert page.row("Strategy memory") == ["0 B", "12.6 MB"]
    assert page.row("Training") == ["2 min 04 s", "2 min 04 s"]
    assert page.row("Evaluation") == ["39.8 s", "39.8 s"]


def test_what_a_strategy_adds_and_how_much_more_it_computes_is_in_the_ledger(page: Page) -> None:
    assert page.row("Parameters that the strategy added") == ["49\N{NARROW NO-BREAK SPACE}152"] * 2
    assert page.row("Forward passes of a training step") == ["1", "1"]
    assert page.row("Forward passes of a decision") == ["0.5", "0.5"]
    assert page.row("A decision") == ["3.25 ms", "3.25 ms"]


def test_control_steps_and_energy_are_summed_and_what_nobody_measured_is_said(page: Page) -> None:
    space = "\N{NARROW NO-BREAK SPACE}"
    assert page.row("Collecting demonstrations, failed") == [f"12{space}300"] * 2
    assert page.row("Acting, in evaluation") == ["7.5 s", "7.5 s"]
    ledger = [row for row in page.rows if row and row[0].strip() in ("Training", "Evaluation")]
    assert [row[1:] for row in ledger if row[0].strip() == "Evaluation"][1:] == [
        [f"6{space}000"] * 2,
        ["not measured", "0.00 J"],
    ]
    assert [row[1:] for row in ledger if row[0].strip() == "Training"][1] == ["not measured", "7.50 kJ"]
    assert page.row("Measured is that of") == ["nothing", "package-0, dram"]


def test_a_run_from_before_these_quantities_were_measured_shows_dashes(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "sequential", videos=False)
    known = ("stage", "task", "train_seconds", "policy_bytes")
    entries = json.loads((run / "ledger.json").read_text())
    (run / "ledger.json").write_text(json.dumps([{key: entry[key] for key in known} for entry in entries]))

    page = Page(write_report([run], tmp_path / "report.html"))

    assert page.row("Parameters that the strategy added") == page.row("A decision") == ["–"]


def test_settings_that_differ_are_listed_beside_each_other(page: Page) -> None:
    assert page.row("strategy.name") == ["sequential", "replay"]
    assert page.row("strategy.fraction") == ["–", "0.2"]


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(page: Page) -> None:
    loaded = [value for name in ("src", "href", "srcset", "poster", "data", "action") for value in page.values(name)]
    assert loaded
    assert all(value.startswith(("data:", "#")) for value in loaded)
    assert not re.search(r"https?://|url\(|@import|<script|javascript:", page.source)


def test_videos_are_inside_the_page_bit_for_bit(page: Page, two_runs: list[Path]) -> None:
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("video", "src")]
    recorded = [run / f"videos/stage_02/{task}.mp4" for task in sequence_of(two_runs[0]) for run in two_runs]
    assert [base64.b64decode(source.partition(",")[2]) for source in sources] == [
        path.read_bytes() for path in recorded
    ]


def test_a_task_that_was_filmed_when_it_was_learned_stands_before_and_after(
    make_run: MakeRun, make_film: Callable[..., None], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", "sequential")
    for stage, task in enumerate(sequence_of(run)):
        make_film(run / f"videos/stage_{stage:02d}/{task}.mp4", seed=7)

    page = Page(write_report([run], tmp_path / "report.html"))

    sources = [value for tag, name, value in page.attributes if (tag, name) == ("video", "src")]
    shown = [("00", "window-close"), ("02", "window-close"), ("01", "push"), ("02", "push"), ("02", "faucet-close")]
    assert [base64.b64decode(source.partition(",")[2]) for source in sources] == [
        (run / f"videos/stage_{stage}/{task}.mp4").read_bytes() for stage, task in shown
    ]
    assert page.text.count("right after it was learned") == 2


def test_failures_say_which_initial_states_were_lost(make_run: MakeRun, tmp_path: Path) -> None:
    table = [[0, 0], [2, None], [1, 19]]
    run = make_run(tmp_path / "run", "ewc", successes=table, tasks=("a", "b"), instructions=("a", "b"), videos=False)

    page = Page(write_report([run], tmp_path / "report.html"))

    rows = [row for row in page.rows if row and row[0] in ("a", "b") and "/" in row[1]]
    never = "2000002, 2000003, 2000004, 2000005, 2000006, 2000007, … (18)"
    assert rows == [
        ["a", "2/20", "1/20", "2000001", never, "horizon 19"],
        ["b", "19/20", "19/20", "–", "2000019", "horizon 1"],
    ]


def test_equal_runs_give_equal_reports(two_runs: list[Path], tmp_path: Path) -> None:
    first = write_report(two_runs, tmp_path / "first.html").read_bytes()
    assert write_report(two_runs, tmp_path / "second.html").read_bytes() == first


def test_text_from_a_run_is_escaped(make_run: MakeRun, tmp_path: Path) -> None:
    attack = "<script>alert('x')</script> \" onmouseover=alert(1)"
    run = make_run(
        tmp_path / "run",
        "sequential",
        tasks=("a&b", "<i>", "c"),
        instructions=(attack, "b", "c"),
        config={"suite": attack, "strategy": {"name": attack}},
        videos=False,
    )

    page = Page(write_report([run], tmp_path / "report.html"))

    assert "<script" not in page.source
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not [tag for tag, _, _ in page.attributes if tag == "i"]
    assert attack in page.text


def test_an_interrupted_run_shows_what_is_missing(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "sequential", stages=2)

    page = Page(write_report([run], tmp_path / "report.html"))

    assert "unfinished: 2 of 3 tasks" in page.text
    assert page.row("Final average")[0] == "–"
    assert "faucet-close after 3 faucet-close: not measured" in page.values("title")
    assert "after task 2" in page.text, "the last rollouts are those of the second stage"


def test_a_run_that_has_just_started_is_reported(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "sequential", stages=0)
    shutil.rmtree(run / "episodes")
    for name in ("ledger.json", "metrics.json", "environment.json"):
        (run / name).unlink()

    page = Page(write_report([run], tmp_path / "report.html"))

    assert page.text.count("no video recorded") == 3
    assert "No training log was found." in page.text
    assert "Not recorded." in page.text
    assert page.row("Policy")[0] == "–"


def test_a_half_written_training_log_gives_the_lines_that_are_whole(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "sequential", videos=False)
    log = run / "training/stage_02.jsonl"
    log.write_text(log.read_text() + '{"step": 610, "lo')

    assert "training loss while learning task 3" in write_report([run], tmp_path / "report.html").read_text()


def test_losses_that_no_logarithm_takes_are_left_out(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "sequential", videos=False)
    for stage in range(3):
        (run / f"training/stage_{stage:02d}.jsonl").write_text('{"step": 1, "loss": -2}\n{"step": 2, "loss": NaN}\n')

    assert "No training log was found." in write_report([run], tmp_path / "report.html").read_text()


def test_runs_of_different_sequences_stand_side_by_side(make_run: MakeRun, tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", "sequential", videos=False)
    second = make_run(
        tmp_path / "second",
        "replay",
        tasks=("push", "drawer-open", "window-close"),
        videos=False,
    )

    page = Page(write_report([first, second], tmp_path / "report.html"))

    charts = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    for task in ("window-close", "push", "faucet-close", "drawer-open"):
        assert any(chart.startswith(f"success on {task} ") for chart in charts)


def test_a_task_that_is_learned_twice_has_two_columns_and_one_curve(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", "ewc", successes=[[0, 1], [20, 3], [9, 18]], tasks=("a", "b"), instructions=("a", "b")
    )
    once = json.loads((run / "sequence.json").read_text())
    (run / "sequence.json").write_text(json.dumps(once * 2))

    page = Page(write_report([run], tmp_path / "report.html"))

    assert page.text.count("“a”") == 1
    assert page.values("title").count("a after 2 b: 9 of 20 episodes, 0.45 [0.26, 0.66]") == 2


def test_runs_of_one_strategy_are_told_apart_by_what_differs(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"run{s}", "replay", config={"seed": s}, videos=False) for s in (0, 1)]
    text = Page(write_report(runs, tmp_path / "report.html")).text
    assert "replay, seed 0" in text
    assert "replay, seed 1" in text


def test_a_paraphrased_instruction_is_shown_beside_the_video(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "sequential")
    rows = run / "episodes/stage_02.jsonl"
    rows.write_text(rows.read_text().replace("close the window", "shut the window, please"))

    text = Page(write_report([run], tmp_path / "report.html")).text

    assert "“close the window”" in text
    assert "told “shut the window, please”" in text


def test_a_folder_gets_a_report_html(two_runs: list[Path], tmp_path: Path) -> None:
    assert write_report(two_runs, tmp_path) == tmp_path / "report.html"
    assert write_report(two_runs, tmp_path / "new" / "folder") == tmp_path / "new" / "folder" / "report.html"


@pytest.mark.parametrize("name", ["", "missing", "file.txt"])
def test_what_is_not_a_run_is_one_clear_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("no run")
    with pytest.raises(ConfigurationError, match="is not a run directory") as caught:
        write_report([tmp_path / name], tmp_path / "report.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("sequence.json", '[{"name": "a"}]'),
        ("ledger.json", "nonsense"),
        ("episodes/stage_00.jsonl", '{"half": '),
        ("episodes/stage_00.jsonl", '{"stage": 0}'),
    ],
)
def test_a_damaged_run_is_one_clear_line_that_names_the_file(
    make_run: MakeRun, tmp_path: Path, name: str, content: str
) -> None:
    run = make_run(tmp_path / "run", "sequential", videos=False)
    (run / name).write_text(content)
    with pytest.raises(ConfigurationError, match=re.escape(name)) as caught:
        write_report([run], tmp_path / "report.html")
    assert "\n" not in str(caught.value)


def test_no_run_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no run was given"):
        write_report([], tmp_path / "report.html")
