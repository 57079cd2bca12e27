"""The units into which demonstrations are cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vla_cl.data import WindowDataset, phases_of, units_of
from vla_cl.errors import ConfigurationError


@pytest.fixture(scope="module")
def dataset(make_file: Callable[..., Path]) -> WindowDataset:
    return WindowDataset(make_file((6, 2, 7)), 4)


def test_phases_are_equally_long_parts_of_an_episode(dataset: WindowDataset) -> None:
    assert phases_of(dataset, 3).tolist() == [0, 0, 1, 1, 2, 2, *(0, 1), *(0, 0, 0, 1, 1, 2, 2)]
    assert phases_of(dataset, 1).tolist() == [0] * 15


def test_units_are_counted_through_without_gaps(dataset: WindowDataset) -> None:
    assert units_of(dataset, "episode").tolist() == np.repeat([0, 1, 2], [6, 2, 7]).tolist()
    assert units_of(dataset, "transition").tolist() == list(range(15))
    assert units_of(dataset, "phase", 3).tolist() == [0, 0, 1, 1, 2, 2, *(3, 4), *(5, 5, 5, 6, 6, 7, 7)]


@pytest.mark.parametrize("phases", [1, 2, 3, 5])
def test_a_phase_lies_in_one_episode(dataset: WindowDataset, phases: int) -> None:
    units = units_of(dataset, "phase", phases)
    for unit in np.unique(units):
        assert len(set(dataset.window_episodes[units == unit].tolist())) == 1


def test_unknown_units_are_refused(dataset: WindowDataset) -> None:
    with pytest.raises(ConfigurationError, match="'episode', 'transition' or 'phase', got 'frame'"):
        units_of(dataset, "frame")
    with pytest.raises(ConfigurationError, match="phases must be at least 1, got 0"):
        units_of(dataset, "phase", 0)
