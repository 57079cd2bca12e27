"""The learning-rate schedule and the validation of training options."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_cl.errors import ConfigurationError
from vla_cl.training import TrainingOptions, learning_rate_at, resolve_device


def test_warm_up_is_linear_and_reaches_the_peak_at_its_last_step() -> None:
    options = TrainingOptions(steps=100, warmup_steps=10, learning_rate=0.5)
    rates = [learning_rate_at(step, options) for step in range(10)]
    assert rates == pytest.approx([0.05 * (step + 1) for step in range(10)])


def test_cosine_has_its_closed_form_at_start_middle_and_end() -> None:
    options = TrainingOptions(steps=110, warmup_steps=10, learning_rate=2.0, final_learning_rate=0.1)
    assert learning_rate_at(10, options) == pytest.approx(2.0)
    assert learning_rate_at(60, options) == pytest.approx(2.0 * 0.55)
    assert learning_rate_at(110, options) == pytest.approx(0.2)


def test_a_constant_schedule_stays_at_the_peak_after_the_warm_up() -> None:
    options = TrainingOptions(steps=50, warmup_steps=10, learning_rate=2.0, schedule="constant")
    assert [learning_rate_at(step, options) for step in range(8, 50)] == pytest.approx([1.8, *[2.0] * 41])


def test_parts_of_a_batch_are_equal() -> None:
    with pytest.raises(ConfigurationError, match=r"accumulate must divide training.batch_size=64, got 5"):
        TrainingOptions(batch_size=64, accumulate=5)


@given(step=st.integers(0, 10_000), warmup=st.integers(0, 200), floor=st.floats(0, 1))
def test_rate_stays_between_zero_and_the_peak(step: int, warmup: int, floor: float) -> None:
    options = TrainingOptions(steps=500, warmup_steps=warmup, learning_rate=3.0, final_learning_rate=floor)
    rate = learning_rate_at(step, options)
    assert 0.0 <= rate <= 3.0 + 1e-12 and math.isfinite(rate)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("clip", -1.0),
        ("ema", 1.0),
        ("precision", "float8"),
        ("schedule", "linear"),
        ("accumulate", 0),
        ("ema_power", -1.0),
    ],
)
def test_unusable_values_are_named(key: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"training.{key}.*{value}"):
        TrainingOptions(**{key: value})  # type: ignore[arg-type]


def test_auto_is_a_gpu_only_where_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected


def test_an_unknown_device_is_one_clear_line() -> None:
    with pytest.raises(ConfigurationError, match="device 'gpu' is unknown; use auto"):
        resolve_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_an_absent_gpu_is_said_at_once() -> None:
    with pytest.raises(ConfigurationError, match="torch sees no GPU"):
        resolve_device("cuda")
