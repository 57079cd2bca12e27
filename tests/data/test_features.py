"""Cached features against what they were computed from; damage, kills, full disks and other backbones."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from torch import Tensor

from vla_cl.data import ConcatenatedWindows, ObservationBatch, ReplayMemory, WindowDataset
from vla_cl.data.features import FeatureCache, cached_features, features_folder
from vla_cl.errors import ConfigurationError, DataFileError, VlaClError

ORIGIN = {"fingerprint": "a backbone", "precision": "float32"}


def perceive(observation: ObservationBatch) -> Mapping[str, Tensor]:
    """Numbers that tell every step, camera and instruction apart, in several types."""
    front, hand = observation.pixels["front"].float(), observation.pixels["hand"].float()
    lengths = torch.tensor([len(text) for text in observation.instruction])
    return {
        "means": torch.stack([front.mean(dim=(1, 2)), hand.mean(dim=(1, 2))], dim=1),
        "rough": front[:, :2, :2, 0].to(torch.bfloat16) / 7,
        "bright": hand.amax(dim=(1, 2, 3)) > 254,
        "words": lengths,
    }


@pytest.fixture
def copied(file: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(file, tmp_path / "task.hdf5"))


def counted(calls: list[int]) -> Callable[[ObservationBatch], Mapping[str, Tensor]]:
    def count(observation: ObservationBatch) -> Mapping[str, Tensor]:
        calls.append(len(observation))
        return perceive(observation)

    return count


@given(data=some.data(), history=some.integers(1, 3))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_batches_hold_exactly_what_was_computed_and_no_pixels(
    file: Path, tmp_path_factory: pytest.TempPathFactory, data: some.DataObject, history: int
) -> None:
    plain = WindowDataset(file, 4, instructions=["do it", "do that"], history=history)
    featured = plain.with_features(cached_features(plain, perceive, ORIGIN, batch_size=5))
    asked = data.draw(some.lists(some.integers(0, len(plain) - 1), min_size=1, max_size=12))
    pixels, features = plain.batch(asked), featured.batch(asked)
    assert torch.equal(pixels.actions, features.actions) and torch.equal(pixels.padding, features.padding)
    assert len(features.observation.moments) == history
    for before, after in zip(pixels.observation.moments, features.observation.moments, strict=True):
        assert not after.pixels and before.pixels and not before.features
        assert after.instruction == before.instruction and torch.equal(after.agent_pos, before.agent_pos)
        for name, expected in perceive(before).items():
            assert after.features[name].dtype == expected.dtype
            torch.testing.assert_close(after.features[name], expected, rtol=1e-6, atol=1e-4)
            if expected.dtype != torch.float32:
                assert torch.equal(after.features[name], expected)


def test_rounded_features_come_back_in_their_own_type(copied: Path) -> None:
    data = WindowDataset(copied, 4)
    exact = cached_features(data, perceive, ORIGIN)
    rounded = cached_features(data, perceive, ORIGIN, rounded=True)
    assert rounded.folder != exact.folder
    one, two = exact.read(np.arange(17)), rounded.read(np.arange(17))
    assert torch.equal(two["means"], one["means"].bfloat16().float())
    assert all(torch.equal(one[name], two[name]) for name in ("rough", "bright", "words"))
    assert exact.row_bytes - rounded.row_bytes == 2 * 6


def test_features_are_computed_once_for_one_key(copied: Path) -> None:
    calls: list[int] = []
    data = WindowDataset(copied, 4)
    first = cached_features(data, counted(calls), ORIGIN, batch_size=7)
    assert calls == [7, 7, 3]
    again = cached_features(WindowDataset(copied, 9, history=2), counted(calls), ORIGIN)
    assert len(calls) == 3 and again.folder == first.folder, "neither chunk nor history changes what a step looks like"
    assert not list(features_folder(copied).glob(".*"))


def test_whatever_the_values_depend_on_has_a_cache_of_its_own(copied: Path, make_file: Callable[..., Path]) -> None:
    keys = {cached_features(WindowDataset(copied, 4), perceive, ORIGIN).key}
    others = {
        "fingerprint": (WindowDataset(copied, 4), {**ORIGIN, "fingerprint": "another backbone"}),
        "precision": (WindowDataset(copied, 4), {**ORIGIN, "precision": "bfloat16"}),
        "cameras": (WindowDataset(copied, 4, cameras=("hand", "front")), ORIGIN),
        "instructions": (WindowDataset(copied, 4, instructions=["other words"]), ORIGIN),
        "episodes": (WindowDataset(copied, 4, episodes=[1, 0]), ORIGIN),
        "checksum": (WindowDataset(make_file((5, 9, 3), first=7, path=copied.parent / "other.hdf5"), 4), ORIGIN),
    }
    for changed, (data, origin) in others.items():
        key = cached_features(data, perceive, origin).key
        assert key not in keys, changed
        keys.add(key)


def test_a_file_that_moved_with_its_features_needs_no_others(copied: Path, tmp_path: Path) -> None:
    cached_features(WindowDataset(copied, 4), perceive, ORIGIN)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    copied.rename(moved / copied.name)
    features_folder(copied).rename(moved / features_folder(copied).name)
    calls: list[int] = []
    cached_features(WindowDataset(moved / copied.name, 4), counted(calls), ORIGIN)
    assert not calls


def cut(folder: Path) -> None:
    path = folder / "0.bin"
    path.write_bytes(path.read_bytes()[:-1])


def garble(folder: Path) -> None:
    (folder / "features.json").write_text('{"format": "vla_cl.features"')


def swap(folder: Path) -> None:
    meta = json.loads((folder / "features.json").read_text())
    meta["tensors"][0][1] = "object"
    (folder / "features.json").write_text(json.dumps(meta))


def rename(folder: Path) -> None:
    path = folder / "features.json"
    path.write_text(path.read_text().replace('"float32"', '"__class__"', 1))


def remove(folder: Path) -> None:
    (folder / "1.bin").unlink()


@pytest.mark.parametrize("damage", [cut, garble, swap, rename, remove])
def test_damaged_features_are_said_and_computed_again(
    damage: Callable[[Path], None], copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = WindowDataset(copied, 4)
    cache = cached_features(data, perceive, ORIGIN)
    damage(cache.folder)
    with pytest.raises(DataFileError, match="are damaged"):
        FeatureCache(copied, cache.key)
    calls: list[int] = []
    with caplog.at_level(logging.WARNING):
        repaired = cached_features(data, counted(calls), ORIGIN)
    assert calls and any("computing them again" in record.message for record in caplog.records)
    expected = perceive(data.observations([3, 8]))["means"]
    torch.testing.assert_close(repaired.read(np.array([3, 8]))["means"], expected, rtol=1e-6, atol=1e-4)


def test_a_file_that_is_cut_while_it_is_read_is_one_line(copied: Path) -> None:
    cache = cached_features(WindowDataset(copied, 4), perceive, ORIGIN)
    os.truncate(cache.folder / "0.bin", 10)
    with pytest.raises(DataFileError, match="cut short"):
        cache.read(np.array([5]))


def killed_half_way(path: Path) -> None:
    calls: list[int] = []

    def kill(observation: ObservationBatch) -> Mapping[str, Tensor]:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return perceive(observation)

    cached_features(WindowDataset(path, 4), kill, ORIGIN, batch_size=5)


def test_a_kill_half_way_leaves_nothing_that_is_read(copied: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=killed_half_way, args=(copied,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path.suffix for path in features_folder(copied).iterdir()] == [".partial"]
    calls: list[int] = []
    cached_features(WindowDataset(copied, 4), counted(calls), ORIGIN, batch_size=5)
    assert sum(calls) == 17
    assert not list(features_folder(copied).glob(".*"))


def test_an_exception_half_way_leaves_nothing(copied: Path) -> None:
    def fail(observation: ObservationBatch) -> Mapping[str, Tensor]:
        if "5" in str(len(observation)):
            return perceive(observation)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_features(WindowDataset(copied, 4), fail, ORIGIN, batch_size=5)
    assert not list(features_folder(copied).iterdir())


def test_a_disk_that_is_too_small_is_said_before_hours_are_spent(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    calls: list[int] = []
    with pytest.raises(VlaClError, match=r"need .* GB, and the disk .*cache_features=false"):
        cached_features(WindowDataset(copied, 4), counted(calls), ORIGIN, batch_size=2)
    assert len(calls) == 1
    assert not list(features_folder(copied).iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_line(copied: Path) -> None:
    copied.parent.chmod(0o555)
    try:
        with pytest.raises(VlaClError, match="cannot write"):
            cached_features(WindowDataset(copied, 4), perceive, ORIGIN)
    finally:
        copied.parent.chmod(0o755)


def test_shapes_that_change_are_refused(copied: Path) -> None:
    def growing(observation: ObservationBatch) -> Mapping[str, Tensor]:
        return {"tokens": torch.zeros(len(observation), len(observation))}

    with pytest.raises(ConfigurationError, match=r"shapes change from batch to batch, tokens \(5,\) .*tokens \(2,\)"):
        cached_features(WindowDataset(copied, 4), growing, ORIGIN, batch_size=5)
    with pytest.raises(ConfigurationError, match="complex64"):
        cached_features(
            WindowDataset(copied, 4), lambda seen: {"z": torch.zeros(len(seen), dtype=torch.complex64)}, ORIGIN
        )


def test_descriptions_and_pickles_carry_the_features(copied: Path) -> None:
    data = WindowDataset(copied, 4)
    featured = data.with_features(cached_features(data, perceive, ORIGIN))
    assert "features" not in data.describe()
    for again in (WindowDataset.from_description(featured.describe()), pickle.loads(pickle.dumps(featured))):
        one, two = featured.batch([2, 11]).observation, again.batch([2, 11]).observation
        assert not two.pixels and all(torch.equal(one.features[name], two.features[name]) for name in one.features)
    assert featured.window_bytes == data.window_bytes
    shutil.rmtree(features_folder(copied))
    with pytest.raises(DataFileError, match=r"cached features of .* are gone"):
        WindowDataset.from_description(featured.describe())


def test_a_replay_memory_draws_features_after_a_restart(copied: Path, make_file: Callable[..., Path]) -> None:
    memory = ReplayMemory()
    plain = WindowDataset(copied, 4)
    other = WindowDataset(make_file((6, 2), first=5), 4)
    for data in (plain, other):
        featured = data.with_features(cached_features(data, perceive, ORIGIN))
        memory.add(featured, fraction=1.0, generator=np.random.default_rng(0))
    again = ReplayMemory()
    again.load_state_dict(json_copy(memory))
    one, two = (each.sample(20, np.random.default_rng(1)).observation for each in (memory, again))
    assert not one.pixels and torch.equal(one.features["means"], two.features["means"])
    assert again.bytes == sum(len(data) * data.window_bytes for data in (plain, other))


def json_copy(memory: ReplayMemory) -> dict[str, object]:
    return {
        key: {**entry, "dataset": json.loads(json.dumps(entry["dataset"]))}
        for key, entry in memory.state_dict().items()
    }


def test_datasets_with_other_features_do_not_mix(copied: Path) -> None:
    data = WindowDataset(copied, 4)
    featured = data.with_features(cached_features(data, perceive, ORIGIN))
    wide = cached_features(data, lambda seen: {"wide": torch.zeros(len(seen), 3)}, {"fingerprint": "wide"})
    for other in (data, data.with_features(wide)):
        with pytest.raises(ConfigurationError, match="cached features"):
            ConcatenatedWindows([featured, other])
    with pytest.raises(ConfigurationError, match="features of 17 steps do not fit 5 windows"):
        WindowDataset(copied, 4, episodes=[0]).with_features(wide)
