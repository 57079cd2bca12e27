"""Trees on disk: exact, whole or absent, and never executable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_cl.errors import CheckpointError
from vla_cl.training import (
    IntervalCheckpoints,
    atomic_folder,
    check_folder,
    load_tree,
    remove_partial_folders,
    save_tree,
)

_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
_tensors = st.lists(st.floats(width=32, allow_nan=False), max_size=5).map(lambda values: torch.tensor(values))
_trees = st.dictionaries(
    st.text(min_size=1, max_size=5).filter(lambda key: "/" not in key and not key.startswith("__")),
    st.recursive(st.one_of(_scalars, _tensors), lambda child: st.lists(child, max_size=3), max_leaves=6),
    max_size=4,
)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second) and first.dtype == second.dtype
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second) and first.dtype == second.dtype
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@settings(max_examples=40, deadline=None)
@given(tree=_trees)
def test_what_is_saved_comes_back_exactly(tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tree")
    save_tree(tree, folder, "state")
    assert same(tree, load_tree(folder, "state"))


def test_dtypes_shapes_and_shared_memory_survive(tmp_path: Path) -> None:
    base = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    tree = {"view": base[0], "transposed": base.T, "scalar": torch.tensor(3.5), "array": np.arange(4, dtype=np.int64)}
    save_tree(tree, tmp_path, "state")
    assert same(tree, load_tree(tmp_path, "state"))


def test_a_truncated_file_is_a_damaged_checkpoint(tmp_path: Path) -> None:
    save_tree({"weights": torch.zeros(100)}, tmp_path, "state")
    file = tmp_path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_tree(tmp_path, "state")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks state\.json"):
        load_tree(tmp_path, "state")


def test_a_failed_write_leaves_the_old_folder_alone(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    with atomic_folder(target) as folder:
        save_tree({"value": 1}, folder, "state")
    with pytest.raises(RuntimeError, match="killed"), atomic_folder(target) as folder:
        save_tree({"value": 2}, folder, "state")
        raise RuntimeError("killed")
    assert load_tree(target, "state") == {"value": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".stage_00.abc.partial").mkdir()
    (tmp_path / "stage_00").mkdir()
    remove_partial_folders(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["stage_00"]


def test_a_changed_bit_is_found_where_the_reader_finds_nothing_wrong(tmp_path: Path) -> None:
    checkpoints = IntervalCheckpoints(tmp_path)
    checkpoints.save(5, {"weights": torch.zeros(100)})
    folder = tmp_path / "step_00000005"
    check_folder(folder)
    file = folder / "training.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    load_tree(folder, "training")
    for read in (lambda: check_folder(folder), checkpoints.latest):
        with pytest.raises(CheckpointError, match=r"step_00000005 is damaged \(training\.safetensors is not what was"):
            read()
    file.unlink()
    with pytest.raises(CheckpointError, match=r"is damaged .*training\.safetensors"):
        check_folder(folder)
    (folder / "checksums.json").write_text("[")
    with pytest.raises(CheckpointError, match="is damaged"):
        check_folder(folder)
    (folder / "checksums.json").unlink()
    check_folder(folder)
