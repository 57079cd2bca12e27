"""Pictures of the success matrix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.report import save_success_matrix_figure, success_matrix_figure
from vla_cl.evaluation.report.colours import rate_colour

MATRIX = np.array([[0.0, 0.05], [1.0, np.nan], [0.35, 0.8]])


def pixels_of(picture: np.ndarray, colour: str) -> int:
    channels = [int(colour[index : index + 2], 16) for index in (1, 3, 5)]
    return int((picture == channels).all(axis=-1).sum())


def test_every_measured_rate_fills_a_cell_of_its_colour() -> None:
    picture = success_matrix_figure({"run": MATRIX}, ["first-task", "second-task"])
    assert picture.dtype == np.uint8
    assert picture.ndim == 3 and picture.shape[-1] == 3
    cell = (0.62 * 0.94 * 100) ** 2
    for rate in MATRIX[~np.isnan(MATRIX)]:
        assert 0.55 * cell < pixels_of(picture, rate_colour(rate)) <= 1.1 * cell


def test_matrices_stand_side_by_side() -> None:
    one = success_matrix_figure({"a": MATRIX}, ["x", "y"])
    two = success_matrix_figure({"a": MATRIX, "b": MATRIX}, ["x", "y"])
    assert two.shape[0] == one.shape[0]
    assert two.shape[1] > one.shape[1] + 100
    assert pixels_of(two, rate_colour(1.0)) == pytest.approx(2 * pixels_of(one, rate_colour(1.0)), rel=0.05)


def test_a_matrix_that_does_not_fit_its_tasks_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"'run' has shape \(3, 2\), not \(4, 3\)"):
        success_matrix_figure({"run": MATRIX}, ["a", "b", "c"])
    with pytest.raises(ConfigurationError, match="no success matrix"):
        success_matrix_figure({}, ["a"])


def test_the_picture_of_runs_is_the_same_every_time(two_runs: list[Path], tmp_path: Path) -> None:
    first = save_success_matrix_figure(two_runs, tmp_path / "first.png")
    second = save_success_matrix_figure(two_runs, tmp_path / "second.png")
    assert first.read_bytes() == second.read_bytes()
    picture = imageio.imread(first)
    assert picture.shape[1] > picture.shape[0]


def test_runs_of_different_sequences_do_not_share_a_picture(
    make_run: Callable[..., Path], two_runs: list[Path], tmp_path: Path
) -> None:
    other = make_run(tmp_path / "other", "replay", tasks=("push", "faucet-close", "window-close"), videos=False)
    with pytest.raises(ConfigurationError, match="learn different sequences"):
        save_success_matrix_figure([two_runs[0], other], tmp_path / "picture.png")
    assert not (tmp_path / "picture.png").exists()
