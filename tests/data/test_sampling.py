"""Which windows make up a training step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from vla_cl.data import batch_indices, epoch_order
from vla_cl.errors import DataFileError


@given(
    length=some.integers(1, 40), batch_size=some.integers(1, 60), seed=some.integers(0, 9), steps=some.integers(1, 12)
)
def test_steps_walk_through_whole_epochs(length: int, batch_size: int, seed: int, steps: int) -> None:
    seen = np.concatenate([batch_indices(length, batch_size, seed, step) for step in range(steps)])
    assert len(seen) == steps * batch_size
    for epoch in range(len(seen) // length):
        assert sorted(seen[epoch * length : (epoch + 1) * length]) == list(range(length))
    last = seen[len(seen) // length * length :]
    assert len(set(last.tolist())) == len(last)


@given(step=some.integers(0, 10**7), other=some.integers(0, 10**7))
def test_a_step_does_not_depend_on_what_was_asked_before(step: int, other: int) -> None:
    expected = batch_indices(37, 8, 1, step)
    batch_indices(37, 8, 1, other)
    epoch_order.cache_clear()
    np.testing.assert_array_equal(batch_indices(37, 8, 1, step), expected)


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    orders = [epoch_order(50, seed, epoch).tolist() for seed in range(3) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9


def test_a_kept_order_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(5, 0, 0)[0] = 1
    batch_indices(5, 5, 0, 0)[0] = 1  # the caller's own
    np.testing.assert_array_equal(batch_indices(5, 5, 0, 0), epoch_order(5, 0, 0))


def test_nothing_to_sample_from_is_an_error() -> None:
    with pytest.raises(DataFileError, match="no windows"):
        batch_indices(0, 4, 0, 0)
