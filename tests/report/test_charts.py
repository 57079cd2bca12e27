"""The geometry of charts, and the colours that everything shares."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from vla_cl.evaluation.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Point,
    Series,
    binned,
    line_panel,
    logarithmic_axis,
    rate_axis,
    stage_axis,
    step_axis,
)
from vla_cl.evaluation.report.colours import (
    RUN_COLOURS_DARK,
    RUN_COLOURS_LIGHT,
    VIRIDIS,
    contrast,
    rate_colour,
    text_colour,
)
from vla_cl.evaluation.report.tables import human_bytes, human_seconds

UNIT = Axis(0.0, 1.0, ((0.0, "0"), (1.0, "1")))


def draw(*series: Series) -> ElementTree.Element:
    return ElementTree.fromstring(line_panel(series, UNIT, UNIT, "a chart"))


def coordinates(element: ElementTree.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in element.attrib["points"].split()]  # type: ignore[misc]


def test_points_lie_where_the_axes_say() -> None:
    chart = draw(Series(0, ((Point(0.0, 0.0), Point(0.5, 0.25), Point(1.0, 1.0)),)))
    (line,) = chart.iter("polyline")
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    expected = [(LEFT, HEIGHT - BOTTOM), (LEFT + width / 2, TOP + 0.75 * height), (WIDTH - RIGHT, TOP)]
    assert coordinates(line) == [pytest.approx(point, abs=0.06) for point in expected]


def test_what_was_not_measured_breaks_the_line() -> None:
    chart = draw(Series(0, ((Point(0.0, 0.1), Point(0.2, 0.2)), (Point(0.8, 0.3), Point(1.0, 0.4)))))
    assert [len(coordinates(line)) for line in chart.iter("polyline")] == [2, 2]


def test_intervals_are_an_area_around_the_line_or_a_whisker_at_a_lonely_point() -> None:
    pair = (Point(0.0, 0.5, (0.4, 0.6)), Point(1.0, 0.5, (0.3, 0.9)))
    band = next(part for part in draw(Series(0, (pair,))).iter("polygon") if part.attrib["class"] == "band")
    height = HEIGHT - TOP - BOTTOM
    ends = [HEIGHT - BOTTOM - value * height for value in (0.6, 0.9, 0.3, 0.4)]
    assert [y for _, y in coordinates(band)] == pytest.approx(ends, abs=0.06)
    alone = draw(Series(0, ((Point(0.5, 0.5, (0.4, 0.6)),),)))
    assert [line.attrib["class"] for line in alone.iter("line")].count("whisker") == 1


def test_marks_say_what_they_are_and_text_is_escaped() -> None:
    chart = line_panel([Series(1, ((Point(0.5, 0.5, None, "<b> & 'co'"),),))], UNIT, UNIT, 'a "chart" <x>')
    parsed = ElementTree.fromstring(chart)
    assert parsed.attrib["aria-label"] == 'a "chart" <x>'
    assert [title.text for title in parsed.iter("title")] == ["<b> & 'co'"]


def test_runs_differ_in_shape_as_well_as_in_colour() -> None:
    marks = set()
    for style in range(4):
        chart = draw(Series(style, ((Point(0.5, 0.5),),)))
        (mark,) = (part for part in chart.iter() if part.attrib.get("class") == "mark")
        marks.add((mark.tag, mark.attrib.get("points", "")))
    assert len(marks) == 4


def test_long_sequences_get_fewer_labels() -> None:
    assert [label for _, label in stage_axis(3).ticks] == ["0", "1", "2", "3"]
    assert len(stage_axis(20).ticks) <= 11
    assert rate_axis().ticks[-1] == (1.0, "1")


@pytest.mark.parametrize("last", [1, 7, 10, 249, 600, 1000, 9_999, 20_000])
def test_step_labels_are_few_round_and_within_the_axis(last: int) -> None:
    ticks = step_axis(last).ticks
    assert 2 <= len(ticks) <= 6
    assert all(0 <= value <= last for value, _ in ticks)
    assert all(len(label.replace("k", "").replace(".", "").rstrip("0")) <= 3 for _, label in ticks)


@pytest.mark.parametrize("values", [[0.05, 1.2], [0.9, 1.1], [1e-5, 3.0], [2.0], [0.5, float("nan"), -1.0, 0.0]])
def test_logarithmic_axes_span_what_they_show(values: list[float]) -> None:
    axis = logarithmic_axis(values)
    shown = [value for value in values if value > 0]
    assert all(axis.low <= value <= axis.high for value, _ in axis.ticks)
    for value in shown:
        assert axis.low < math.log10(value) < axis.high
    for position, label in axis.ticks:
        assert 10**position == pytest.approx(float(label))


def test_bins_keep_the_mean_and_the_order() -> None:
    points = [(step, float(step % 7)) for step in range(400)]
    means = binned(points, bins=80)
    assert len(means) == 80
    assert sum(value for _, value in means) / 80 == pytest.approx(sum(value for _, value in points) / 400)
    assert [step for step, _ in means] == sorted(step for step, _ in means)
    assert binned(points[:5]) == [(float(step), value) for step, value in points[:5]]


def test_rates_run_through_viridis_and_get_lighter_all_the_way() -> None:
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    assert rate_colour(0.0) == VIRIDIS[0]
    assert rate_colour(1.0) == VIRIDIS[-1]
    rates = [index / 40 for index in range(41)]
    for rate in rates:
        reference = colormaps["viridis"](rate)[:3]
        assert to_rgb(rate_colour(rate)) == pytest.approx(reference, abs=0.02)
    luminance = [contrast(rate_colour(rate), "#000000") for rate in rates]
    assert luminance == sorted(luminance)


@pytest.mark.parametrize("rate", [-0.01, 1.01, float("nan")])
def test_what_is_no_rate_has_no_colour(rate: float) -> None:
    with pytest.raises(ValueError, match=re.escape("[0, 1]")):
        rate_colour(rate)


def test_text_is_legible_on_every_cell_and_lines_on_every_page() -> None:
    for index in range(201):
        background = rate_colour(index / 200)
        assert contrast(text_colour(background), background) >= 4.5
    assert all(contrast(colour, "#ffffff") >= 4.5 for colour in RUN_COLOURS_LIGHT)
    assert all(contrast(colour, "#14171b") >= 4.5 for colour in RUN_COLOURS_DARK)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.00 kB"),
        (12_345, "12.3 kB"),
        (999_999, "1.00 MB"),
        (4.2e9, "4.20 GB"),
        (3e12, "3.00 TB"),
    ],
)
def test_sizes_are_written_with_three_digits(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (8.34, "8.3 s"), (59.96, "1 min 00 s"), (245, "4 min 05 s"), (7_980, "2 h 13 min")],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text
