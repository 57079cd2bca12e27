"""What training reads: sharp boundaries, blurry ones, and where each row came from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.strategies.conftest import make_dataset
from vla_cl.data import Batch, WindowDataset, batch_indices
from vla_cl.training import BlurredStream, TaskStream

BATCH, STEPS = 64, 200


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[WindowDataset]:
    folder: Path = tmp_path_factory.mktemp("data")
    return [make_dataset(folder, name, episodes=4, seed=index) for index, name in enumerate(("a", "b", "c"))]


def blurred(datasets: list[WindowDataset], blur: float, seed: int = 3) -> BlurredStream:
    before, present, after = datasets
    return BlurredStream(present, before, after, steps=STEPS, blur=blur, batch_size=BATCH, seed=seed)


def tasks(batch: Batch) -> Counter[str]:
    return Counter(text.removeprefix("do ") for text in batch.observation.instruction)


def test_a_task_is_read_in_the_order_of_its_epochs(datasets: list[WindowDataset]) -> None:
    data = datasets[0]
    batch = TaskStream(data, BATCH, 5).read(7)
    expected = data.batch(batch_indices(len(data), BATCH, 5, 7))
    assert batch.actions.equal(expected.actions)


def test_near_a_boundary_half_of_the_rows_are_the_neighbours(datasets: list[WindowDataset]) -> None:
    stream = blurred(datasets, 0.25)
    found = [tasks(stream.read(step)) for step in range(STEPS)]
    assert all(sum(each.values()) == BATCH for each in found)
    first, middle, last = found[0], found[STEPS // 4 : -STEPS // 4], found[-1]
    assert first["a"] == pytest.approx(BATCH / 2, abs=3.5 * np.sqrt(BATCH) / 2) and not first["c"]
    assert last["c"] == pytest.approx(BATCH / 2, abs=3.5 * np.sqrt(BATCH) / 2) and not last["a"]
    assert all(each == Counter({"b": BATCH}) for each in middle)


def test_the_neighbours_shares_are_the_linear_ramps(datasets: list[WindowDataset]) -> None:
    stream, width = blurred(datasets, 0.25), 50
    found = [tasks(stream.read(step)) for step in range(STEPS)]
    expected = sum(0.5 * (1 - step / width) for step in range(width)) * BATCH
    spread = 4 * np.sqrt(width * BATCH) / 2
    assert sum(each["a"] for each in found) == pytest.approx(expected, abs=spread)
    assert sum(each["c"] for each in found) == pytest.approx(expected, abs=spread)


def test_without_blur_or_neighbours_it_is_the_task_alone(datasets: list[WindowDataset]) -> None:
    plain = TaskStream(datasets[1], BATCH, 3)
    ends = BlurredStream(datasets[1], None, None, steps=STEPS, blur=0.5, batch_size=BATCH, seed=3)
    for step in (0, 57, STEPS - 1):
        for stream in (blurred(datasets, 0.0), ends):
            assert stream.read(step).actions.equal(plain.read(step).actions)


def test_a_step_does_not_depend_on_those_before_it(datasets: list[WindowDataset]) -> None:
    stream, again = blurred(datasets, 0.5), blurred(datasets, 0.5)
    for step in range(5):
        stream.read(step)
    assert stream.read(11).actions.equal(again.read(11).actions)
    assert not stream.read(11).actions.equal(blurred(datasets, 0.5, seed=4).read(11).actions)


def test_a_batch_knows_which_windows_its_rows_are(datasets: list[WindowDataset]) -> None:
    batch = blurred(datasets, 0.5).read(3)
    for chosen in (batch, batch[10:50], batch[[5, 60, 1, 2]]):
        rebuilt = [data.batch(windows).actions for data, windows in chosen.origin]
        assert np.concatenate([each.numpy() for each in rebuilt]).tolist() == chosen.actions.numpy().tolist()
    assert len({data.task for data, _ in batch.origin}) == 2
