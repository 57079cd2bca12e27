"""Normalisation is an affine map, there and back, whatever the statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla_cl.data import Statistics, VectorStatistics
from vla_cl.policies import PolicyFeatures
from vla_cl.policies.normalisation import NORMALISATIONS, SMALLEST_ACTION_SPREAD, Normaliser

DIMENSIONS = 4


def statistics_of(samples: np.ndarray) -> VectorStatistics:
    low, q01, q99, high = np.quantile(samples.astype(np.float64), [0, 0.01, 0.99, 1], axis=0)
    return VectorStatistics(samples.mean(0), samples.std(0), min=low, max=high, q01=q01, q99=q99)


def normaliser_of(actions: np.ndarray, states: np.ndarray, method: str) -> Normaliser:
    normaliser = Normaliser(PolicyFeatures(DIMENSIONS, DIMENSIONS), method)
    normaliser.set_statistics(Statistics(statistics_of(actions), statistics_of(states)))
    return normaliser


samples = arrays(np.float32, (10, DIMENSIONS), elements=st.floats(-1, 1, width=32))
states = arrays(np.float32, (10, DIMENSIONS), elements=st.floats(-100, 100, width=32))


@settings(deadline=None, max_examples=60)
@given(actions=samples, observed=states, method=st.sampled_from(NORMALISATIONS))
def test_normalisation_and_its_inverse_cancel(actions: np.ndarray, observed: np.ndarray, method: str) -> None:
    normaliser = normaliser_of(actions, observed, method)
    for part, values in ((normaliser.action, actions), (normaliser.agent_pos, observed)):
        raw = torch.from_numpy(values)
        normalised = part.normalise(raw)
        assert normalised.isfinite().all()
        assert torch.allclose(part.denormalise(normalised), raw, atol=1e-5 * max(1.0, float(raw.abs().max())))


@settings(deadline=None, max_examples=60)
@given(actions=samples, method=st.sampled_from(NORMALISATIONS))
def test_no_action_that_the_robot_can_take_becomes_a_huge_number(actions: np.ndarray, method: str) -> None:
    normaliser = normaliser_of(actions, actions, method)
    reachable = torch.tensor([-1.0, 1.0])[:, None].expand(2, DIMENSIONS)
    assert normaliser.action.normalise(reachable).abs().max() <= 2 / SMALLEST_ACTION_SPREAD + 1e-3


@pytest.mark.parametrize("method", ["min_max", "quantile"])
def test_what_was_seen_fills_the_unit_box(method: str) -> None:
    actions = np.random.default_rng(0).uniform(-0.4, 0.8, (1000, DIMENSIONS)).astype(np.float32)
    normalised = normaliser_of(actions, actions, method).action.normalise(torch.from_numpy(actions)).numpy()
    bounds = np.quantile(normalised, [0.0, 1.0] if method == "min_max" else [0.01, 0.99], axis=0)
    assert bounds == pytest.approx(np.array([[-1.0] * DIMENSIONS, [1.0] * DIMENSIONS]), abs=1e-3)


def test_mean_and_standard_deviation_are_taken_out() -> None:
    values = np.random.default_rng(0).normal(3.0, [0.5, 1.0, 2.0, 0.4], (5000, DIMENSIONS)).astype(np.float32)
    normalised = normaliser_of(values / 10, values, "mean_std").agent_pos.normalise(torch.from_numpy(values)).numpy()
    assert normalised.mean(0) == pytest.approx(np.zeros(DIMENSIONS), abs=1e-4)
    assert normalised.std(0) == pytest.approx(np.ones(DIMENSIONS), abs=1e-3)


@pytest.mark.parametrize("method", NORMALISATIONS)
def test_a_dimension_that_never_moved_keeps_its_raw_scale(method: str) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (100, DIMENSIONS)).astype(np.float32)
    actions[:, 3] = -0.25
    normaliser = normaliser_of(actions, actions, method)
    assert float(normaliser.action.normalise(torch.tensor([0.0, 0.0, 0.0, 0.75]))[3]) == pytest.approx(1.0)


def test_a_state_that_hardly_moved_in_the_first_task_does_not_explode_in_the_next() -> None:
    observed = np.random.default_rng(0).normal(0, [1.0, 1e-4, 0.0, 0.5], (100, DIMENSIONS)).astype(np.float32)
    normaliser = normaliser_of(np.clip(observed, -1, 1), observed, "min_max")
    moved = normaliser.agent_pos.normalise(torch.ones(DIMENSIONS))
    assert moved.abs().max() < 15
