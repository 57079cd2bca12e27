"""Statistics against numpy on the whole arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load, save

from vla_cl.data import (
    ConcatenatedWindows,
    Episode,
    Statistics,
    VectorStatistics,
    WindowDataset,
    compute_statistics,
)
from vla_cl.data import windows as windows_module
from vla_cl.errors import ConfigurationError


def assert_statistics_of(values: np.ndarray, found: VectorStatistics) -> None:
    values = values.astype(np.float64)
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.std, values.std(0), rtol=1e-5)
    np.testing.assert_array_equal(found.min, values.min(0).astype(np.float32))
    np.testing.assert_array_equal(found.max, values.max(0).astype(np.float32))
    np.testing.assert_allclose(found.q01, np.quantile(values, 0.01, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.q99, np.quantile(values, 0.99, axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block_rows", [1, 4, 4096])
def test_statistics_count_each_step_once(
    file: Path, make_episode: Callable[..., Episode], block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows_module, "_BLOCK_ROWS", block_rows)
    episodes = [make_episode(index, length) for index, length in enumerate((5, 9, 3))]
    statistics = compute_statistics(WindowDataset(file, 8, privileged=True))
    assert_statistics_of(np.concatenate([each.actions for each in episodes]), statistics.action)
    for key, found in (("agent_pos", statistics.agent_pos), ("environment_state", statistics.environment_state)):
        assert found is not None
        assert_statistics_of(np.concatenate([each.observations[key][:-1] for each in episodes]), found)


def test_privileged_state_has_statistics_only_where_it_is_loaded(file: Path) -> None:
    assert compute_statistics(WindowDataset(file, 8)).environment_state is None


def test_statistics_of_some_episodes_look_at_no_others(file: Path, make_episode: Callable[..., Episode]) -> None:
    statistics = compute_statistics(WindowDataset(file, 8, episodes=[2]))
    assert_statistics_of(make_episode(2, 3).actions, statistics.action)


def test_statistics_of_concatenated_datasets_are_joint(file: Path, make_episode: Callable[..., Episode]) -> None:
    parts = [WindowDataset(file, 2, episodes=[index]) for index in (0, 2)]
    joint = np.concatenate([make_episode(0, 5).actions, make_episode(2, 3).actions])
    assert_statistics_of(joint, compute_statistics(ConcatenatedWindows(parts)).action)


@pytest.mark.parametrize("privileged", [True, False])
def test_statistics_survive_safetensors(file: Path, privileged: bool) -> None:
    statistics = compute_statistics(WindowDataset(file, 8, privileged=privileged))
    assert Statistics.from_state_dict(load(save(statistics.state_dict()))) == statistics


def test_statistics_cannot_be_changed(file: Path) -> None:
    statistics = compute_statistics(WindowDataset(file, 8))
    with pytest.raises(ValueError, match="read-only"):
        statistics.action.mean[0] = 0
    with pytest.raises(AttributeError):
        statistics.action = statistics.agent_pos  # type: ignore[misc]


def test_statistics_that_differ_anywhere_are_unequal(file: Path) -> None:
    one, other = (compute_statistics(WindowDataset(file, 8, episodes=[index])) for index in (0, 1))
    assert one != other
    assert one == compute_statistics(WindowDataset(file, 3, episodes=[0]))


def test_declared_ranges_are_those_of_a_uniform_distribution() -> None:
    statistics = Statistics.from_ranges({"action": ((-1.0, 0.0), (1.0, 10.0)), "agent_pos": ((0.0,), (1.0,))})
    samples = np.random.default_rng(0).uniform((-1, 0), (1, 10), (200_000, 2))
    np.testing.assert_allclose(statistics.action.mean, samples.mean(0), atol=0.02)
    np.testing.assert_allclose(statistics.action.std, samples.std(0), rtol=0.01)
    np.testing.assert_allclose(statistics.action.q01, np.quantile(samples, 0.01, axis=0), atol=0.02)
    np.testing.assert_allclose(statistics.action.q99, np.quantile(samples, 0.99, axis=0), atol=0.02)
    np.testing.assert_array_equal(statistics.action.max, [1, 10])
    assert statistics.environment_state is None


def test_ranges_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="low < high"):
        Statistics.from_ranges({"action": ((1.0,), (1.0,)), "agent_pos": ((0.0,), (1.0,))})
    with pytest.raises(ConfigurationError, match="agent_pos"):
        Statistics.from_ranges({"action": ((0.0,), (1.0,))})
