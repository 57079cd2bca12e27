"""Files are whole or absent, and a folder that cannot be written is one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vla_cl.errors import VlaClError
from vla_cl.files import atomic_path, file_checksum, remove_partial_files, write_json, write_text


def test_a_failure_keeps_the_old_content_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"value": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(VlaClError, match=r"cannot write .*taken/value.txt: .*; choose another folder"):
        write_text(tmp_path / "taken" / "value.txt", "text")


def test_nan_never_reaches_a_json_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "value.json", float("nan"))
    assert not list(tmp_path.iterdir())


def test_leftovers_of_a_kill_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".value.json.0123.partial").write_text("half")
    (tmp_path / "value.json").write_text("{}")
    remove_partial_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["value.json"]


def test_the_checksum_is_sha_256(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert file_checksum(tmp_path / "empty").startswith("e3b0c44298fc1c14")
