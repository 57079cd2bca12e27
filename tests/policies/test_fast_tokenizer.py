"""The FAST tokenizer against scipy's cosine transform and the closed form of its rounding error."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import fft

from vla_cl.errors import CheckpointError
from vla_cl.policies.fast_tokenizer import FastTokenizer, coefficient_limit, cosine_transform

CHUNK, ACTIONS, SCALE = 16, 7, 10.0
LIMIT = coefficient_limit(CHUNK, SCALE, 1.0)


def smooth(count: int, seed: int = 0) -> np.ndarray:
    """Motions (count, CHUNK, ACTIONS) in [-1, 1] made of a level and two slow waves."""
    t = np.linspace(0, 1, CHUNK)
    waves = np.stack([np.ones(CHUNK), np.cos(np.pi * t), np.cos(2 * np.pi * t)])
    sizes = np.random.default_rng(seed).normal(size=(count, 3, ACTIONS)) * np.array([0.3, 0.2, 0.1])[:, None]
    return np.clip(np.einsum("nfa,ft->nta", sizes, waves), -1, 1)


@pytest.fixture(scope="module")
def tokenizer() -> FastTokenizer:
    return FastTokenizer.train(smooth(2000), 1024, SCALE, LIMIT, 1024)


CHUNKS = arrays(np.float64, (2, CHUNK, ACTIONS), elements=st.floats(-1, 1))


@pytest.mark.parametrize("length", [1, 2, 8, 16, 50])
def test_the_transform_is_scipys_orthonormal_dct(length: int) -> None:
    series = np.random.default_rng(0).normal(size=(length, 3))
    assert np.allclose(cosine_transform(length) @ series, fft.dct(series, axis=0, norm="ortho"), atol=1e-12)
    assert np.allclose(cosine_transform(length) @ cosine_transform(length).T, np.eye(length), atol=1e-12)


@given(CHUNKS)
@settings(max_examples=50, deadline=None)
def test_a_round_trip_errs_by_at_most_half_a_step_a_coefficient(tokenizer: FastTokenizer, chunks: np.ndarray) -> None:
    back = tokenizer.decode(tokenizer.encode(chunks))
    errors = fft.dct(back - chunks, axis=1, norm="ortho")
    assert np.abs(errors).max() <= 0.5 / SCALE + 1e-6
    # the transform keeps lengths, so over the chunk the error of a dimension is bounded, too
    assert np.linalg.norm(back - chunks, axis=1).max() <= 0.5 / SCALE * math.sqrt(CHUNK) + 1e-6


@given(CHUNKS)
@settings(max_examples=25, deadline=None)
def test_what_was_decoded_encodes_to_the_same_tokens(tokenizer: FastTokenizer, chunks: np.ndarray) -> None:
    tokens = tokenizer.encode(chunks)
    assert tokenizer.encode(tokenizer.decode(tokens)) == tokens


@given(st.integers(1, 60), st.floats(1, 30), st.floats(0.1, 3), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_no_chunk_within_bounds_is_clipped(length: int, scale: float, largest: float, seed: int) -> None:
    limit = coefficient_limit(length, scale, largest)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(4, length, 1))
    worst = np.concatenate([signs, np.sign(cosine_transform(length))[:, :, None]]) * largest
    assert np.abs(np.rint(scale * fft.dct(worst, axis=1, norm="ortho"))).max() <= limit


def test_low_frequencies_come_first_all_dimensions_of_each() -> None:
    plain = FastTokenizer(np.empty((0, 2), int), 4, 2, SCALE, 40)
    chunk = np.random.default_rng(0).uniform(-1, 1, size=(1, 4, 2))
    wanted = np.rint(SCALE * fft.dct(chunk[0], axis=0, norm="ortho"))
    tokens = plain.encode(chunk)[0]
    assert tokens == [int(wanted[frequency, dimension]) + 40 for frequency in range(4) for dimension in range(2)]


def test_merges_shorten_smooth_motion_and_lose_nothing(tokenizer: FastTokenizer) -> None:
    chunks = smooth(200, seed=1)
    plain = FastTokenizer(np.empty((0, 2), int), CHUNK, ACTIONS, SCALE, LIMIT)
    tokens = tokenizer.encode(chunks)
    assert tokenizer.size == 1024 and max(map(max, tokens)) < 1024
    assert np.mean([len(each) for each in tokens]) < 0.3 * CHUNK * ACTIONS
    assert np.array_equal(tokenizer.decode(tokens), plain.decode(plain.encode(chunks)))


def test_other_motions_than_those_it_was_trained_on_encode_too(tokenizer: FastTokenizer) -> None:
    wild = np.random.default_rng(5).choice([-1.0, 1.0], size=(50, CHUNK, ACTIONS))
    tokens = tokenizer.encode(wild)
    assert all(len(each) <= CHUNK * ACTIONS for each in tokens)
    assert np.abs(fft.dct(tokenizer.decode(tokens) - wild, axis=1, norm="ortho")).max() <= 0.5 / SCALE + 1e-6


@given(st.lists(st.lists(st.integers(-5, 2000), max_size=300), max_size=4))
@settings(max_examples=100, deadline=None)
def test_any_sequence_decodes(tokenizer: FastTokenizer, sequences: list[list[int]]) -> None:
    decoded = tokenizer.decode(sequences)
    assert decoded.shape == (len(sequences), CHUNK, ACTIONS) and decoded.dtype == np.float32
    assert np.isfinite(decoded).all()


def test_what_is_missing_is_zero_and_what_is_too_much_is_dropped(tokenizer: FastTokenizer) -> None:
    chunk = np.random.default_rng(2).uniform(-1, 1, size=(1, CHUNK, ACTIONS))
    (tokens,) = tokenizer.encode(chunk)
    whole, longer, none = tokenizer.decode([tokens, tokens + tokens, []])
    assert np.array_equal(whole, longer) and not none.any()
    plain = FastTokenizer(np.empty((0, 2), int), CHUNK, ACTIONS, SCALE, LIMIT)
    (half,) = plain.decode([plain.encode(chunk)[0][: 8 * ACTIONS]])
    coefficients = fft.dct(half, axis=0, norm="ortho")
    assert np.abs(coefficients[8:]).max() < 1e-6
    assert np.allclose(coefficients[:8], fft.dct(whole, axis=0, norm="ortho")[:8], atol=1e-5)


def test_training_is_a_function_of_the_chunks(tokenizer: FastTokenizer) -> None:
    again = FastTokenizer.train(smooth(2000), 1024, SCALE, LIMIT, 1024)
    assert np.array_equal(again.merges, tokenizer.merges)
    other = FastTokenizer.train(smooth(2000, seed=1), 1024, SCALE, LIMIT, 1024)
    assert not np.array_equal(other.merges[:200], tokenizer.merges[:200])


def test_its_merges_are_all_there_is_to_it(tokenizer: FastTokenizer) -> None:
    chunks = smooth(50, seed=3)
    for again in (FastTokenizer(tokenizer.merges, CHUNK, ACTIONS, SCALE, LIMIT), copy.deepcopy(tokenizer)):
        assert again.encode(chunks) == tokenizer.encode(chunks)


def test_merges_are_byte_pair_encodings() -> None:
    # symbols 20 + (a, a, b) for three dimensions: the commonest pair first, then what it makes with the rest
    chunks = np.array([[[0.5, 0.5, 1.0]]] * 10)
    tokenizer = FastTokenizer.train(chunks, 100, SCALE, 20, 100)
    a, b = 25, 30
    assert tokenizer.merges.tolist() in ([[a, a], [41, b]], [[a, b], [a, 41]])
    assert tokenizer.encode(chunks[:1]) == [[42]]


@pytest.mark.parametrize("pair", [(0, 5000), (-1, 3)])
def test_damaged_merges_are_recognised(pair: tuple[int, int]) -> None:
    with pytest.raises(CheckpointError, match="FAST tokenizer is damaged"):
        FastTokenizer(np.array([pair]), CHUNK, ACTIONS, SCALE, LIMIT)
