"""Ranks: what they are by hand, that draws are shared, and that intervals follow what is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla_cl.evaluation import read_rows, write_rows
from vla_cl.evaluation.report.ranks import final_average_samples, ranks
from vla_cl.evaluation.report.runs import Run, read_runs
from vla_cl.seeding import numpy_generator

MakeRun = Callable[..., Path]


def test_equal_ones_share_the_mean_of_their_places() -> None:
    means = [0.5, 0.9, 0.5, 0.1]
    found = ranks(means, np.repeat(np.array(means)[:, None], 10, axis=1))
    assert [(each.place, each.low, each.high, each.among) for each in found] == [
        (2.5, 2.5, 2.5, 4),
        (1.0, 1.0, 1.0, 4),
        (2.5, 2.5, 2.5, 4),
        (4.0, 4.0, 4.0, 4),
    ]
    assert ranks([], np.empty((0, 10))) == []


@given(arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=st.floats(0, 1, width=16)))
def test_places_add_up_and_lie_within_what_was_drawn(samples: np.ndarray) -> None:
    found = ranks(samples.mean(axis=1), samples)
    count = len(samples)
    assert sum(each.place for each in found) == pytest.approx(count * (count + 1) / 2)
    for row, each in enumerate(found):
        places = [1 + (s > s[row]).sum() + ((s == s[row]).sum() - 1) / 2 for s in samples.round(9).T]
        assert min(places) <= each.low <= each.high <= max(places)


@pytest.fixture(scope="module")
def runs(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Run]]:
    """Runs of one strategy, from tables of successes, one a seed."""
    root = tmp_path_factory.mktemp("ranks")

    def made(name: str, *tables: list[list[int | None]], **options: object) -> list[Run]:
        folders = [
            make_run(root / f"{name}-{seed}", name, successes=each, config={"seed": seed}, videos=False, **options)
            for seed, each in enumerate(tables)
        ]
        return read_runs(folders)

    return made


def last(*counts: int) -> list[list[int | None]]:
    return [[0, 0, 0], [9, None, None], [9, 9, None], list(counts)]


def test_all_strategies_get_the_same_draws(runs: Callable[..., list[Run]]) -> None:
    """Equal outcomes give equal samples, whatever else is compared, also when a strategy learned in another order."""
    one = runs("one", last(5, 10, 20), last(3, 3, 3))
    same = runs("same", last(5, 10, 20), last(3, 3, 3))
    order = ("push", "faucet-close", "window-close")
    turned = runs("turned", last(10, 20, 5), last(3, 3, 3), tasks=order)
    samples = final_average_samples([one, same, turned], numpy_generator(0), 50)
    assert np.array_equal(samples[0], samples[1])
    assert np.array_equal(samples[0], samples[2]), "tasks are paired by name"
    assert samples.std(axis=1).min() > 0.01


def test_samples_scatter_about_the_mean_as_the_outcomes_do(runs: Callable[..., list[Run]]) -> None:
    """Of one task and one run, a sample is a binomial share."""
    folder = runs("single", [[0], [5]], tasks=("push",), instructions=("push",))
    samples = final_average_samples([folder], numpy_generator(1), 4000)[0]
    assert samples.mean() == pytest.approx(0.25, abs=0.01)
    assert samples.std() == pytest.approx(np.sqrt(0.25 * 0.75 / 20), rel=0.05)


def test_what_is_always_better_has_a_rank_without_doubt(runs: Callable[..., list[Run]]) -> None:
    good, bad = runs("good", last(20, 20, 20)), runs("bad", last(0, 1, 2))
    samples = final_average_samples([bad, good], numpy_generator(2))
    found = ranks([0.05, 1.0], samples)
    assert [(each.place, each.low, each.high) for each in found] == [(2.0, 2.0, 2.0), (1.0, 1.0, 1.0)]


def test_strategies_of_unequally_many_runs_are_ranked(runs: Callable[..., list[Run]]) -> None:
    few, many = runs("few", last(10, 10, 10)), runs("many", last(9, 9, 9), last(11, 11, 11), last(10, 10, 10))
    assert final_average_samples([few, many], numpy_generator(3), 20).shape == (2, 20)
    assert final_average_samples([], numpy_generator(3), 20).shape == (0, 20)


def test_rollouts_that_were_stopped_early_are_drawn_as_often_as_they_were_played(
    make_run: MakeRun, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "run", "replay", videos=False)
    path = folder / "episodes/stage_02.jsonl"
    rows = [row for row in read_rows(path) if row.task != "push" or row.episode < 3]
    ends = ("push", 2)
    write_rows(
        path, [replace(row, stopping="stopped" if (row.task, row.episode) == ends else "watched") for row in rows]
    )
    (run,) = read_runs([folder])
    (samples,) = final_average_samples([[run]], np.random.default_rng(0), replicates=4000)
    rates, played = np.array([17 / 20, 3 / 3, 19 / 20]), np.array([20, 3, 20])
    assert samples.mean() == pytest.approx(rates.mean(), abs=0.005)
    variance = rates.var() / 3 + (rates * (1 - rates) / played).mean() / 3
    assert samples.var() == pytest.approx(variance, rel=0.1)
