"""`vla-cl data convert`, as a user runs it: files and folders of others in and out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.foreign_files import write_libero, write_robomimic
from vla_cl.cli.main import main
from vla_cl.data import open_demonstrations

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """LIBERO's folder as it is downloaded, with two tasks, and a file of robomimic."""
    (tmp_path / "libero_goal").mkdir()
    for task in ("turn_on_the_stove", "open_the_drawer"):
        language = task.replace("_", " ")
        write_libero(tmp_path / "libero_goal" / f"{task}_demo.hdf5", (3, 4), task=task, language=language)
    write_robomimic(tmp_path / "can.hdf5", (3,))
    return tmp_path


@pytest.fixture
def data(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run `vla-cl data WORD...` in this process; return status, stdout and stderr."""
    monkeypatch.chdir(folder)
    logging.getLogger("vla_cl").setLevel(logging.NOTSET)

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["data", *words])
        return status, *capfd.readouterr()

    return run


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_help_names_the_layouts_and_gives_examples(data: Command) -> None:
    status, said, _ = data("convert", "-h")
    assert status == 0
    for word in ("robomimic", "libero", "lerobot", "--images", "--force", "Examples"):
        assert word in said


def test_a_folder_of_libero_becomes_a_folder_of_ours_and_back(data: Command, folder: Path) -> None:
    status, _, said = data("convert", "libero_goal", "--to", "vla_cl", "--output", "ours")
    assert status == 0, said
    assert names(folder / "ours") == ["open_the_drawer.hdf5", "turn_on_the_stove.hdf5"]
    assert "wrote ours/open_the_drawer.hdf5" in said
    assert data("validate", "ours")[0] == 0
    assert data("convert", "ours", "--to", "libero", "--output", "back")[0] == 0
    assert names(folder / "back") == ["open_the_drawer_demo.hdf5", "turn_on_the_stove_demo.hdf5"]
    with open_demonstrations(folder / "back" / "turn_on_the_stove_demo.hdf5") as file:
        assert (file.layout, file.lengths.tolist()) == ("libero", [2, 3])


def test_a_lerobot_data_set_is_written_inspected_and_read_back(data: Command, folder: Path) -> None:
    status, _, said = data("convert", "libero_goal", "--to", "lerobot", "--output", "set")
    assert status == 0, said
    assert "lossy" in said
    assert "meta/info.json" in names(folder / "set")
    status, _, said = data("convert", "set", "--to", "vla_cl", "--output", "ours", "--camera", "wrist=hand")
    assert status == 0, said
    with open_demonstrations(folder / "ours" / "turn_on_the_stove.hdf5") as file:
        assert file.cameras == ("agentview", "hand")


def test_files_of_others_can_be_inspected_and_drawn(data: Command, folder: Path) -> None:
    status, said, _ = data("inspect", "can.hdf5", "--picture", "can.png")
    assert status == 0
    for word in ("robomimic", "pick place can", "unknown", "nothing to compare it with"):
        assert word in said
    assert (folder / "can.png").stat().st_size > 1000
    status, said, _ = data("inspect", "libero_goal")
    assert status == 0
    assert [line.split()[-1] for line in said.splitlines()[1:]] == ["-", "-"]


@pytest.mark.parametrize("words", [("split", "can.hdf5", "--into", "a=0.5,b=0.5"), ("rerender", "can.hdf5", "b.hdf5")])
def test_what_only_ours_can_do_says_how_to_convert(data: Command, words: tuple[str, ...]) -> None:
    status, _, complaint = data(*words)
    assert status == 2
    assert "robomimic's layout" in complaint and "vla-cl data convert can.hdf5 --to vla_cl" in complaint


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (("can.hdf5", "--to", "zarr", "--output", "a.hdf5"), ("layout 'zarr'", "robomimic")),
        (("absent.hdf5", "--to", "vla_cl", "--output", "a.hdf5"), ("absent.hdf5", "does not exist")),
        (("can.hdf5", "--to", "vla_cl", "--output", "can.hdf5"), ("is there already", "--force")),
        (("libero_goal", "--to", "vla_cl", "--output", "a.hdf5"), ("2 tasks", "give a folder")),
        (("can.hdf5", "--to", "vla_cl", "--output", "a.hdf5", "--images"), ("--images", "lerobot")),
        (("can.hdf5", "--to", "vla_cl", "--output", "a.hdf5", "--camera", "wrist"), ("OLD=NEW", "wrist")),
        (("can.hdf5", "--to", "vla_cl", "--output", "a.hdf5", "--camera", "writs=x"), ("'writs'", "'wrist'")),
        (("can.hdf5", "--output", "a.hdf5"), ("--to",)),
        (("can.hdf5", "--to", "vla_cl"), ("--output",)),
    ],
    ids=lambda words: " ".join(words[-3:]),
)
def test_a_mistake_is_one_line_and_writes_nothing(
    data: Command, folder: Path, words: tuple[str, ...], fragments: tuple[str, ...]
) -> None:
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    status, said, complaint = data("convert", *words)
    assert (status, said) == (2, "")
    (line,) = complaint.splitlines()
    for fragment in ("error: ", *fragments):
        assert fragment in line
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_force_replaces_what_is_there(data: Command, folder: Path) -> None:
    words = ("convert", "can.hdf5", "--to", "lerobot", "--output", "set", "--images")
    assert data(*words)[0] == 0
    (folder / "set" / "old").write_text("")
    assert data(*words)[0] == 2
    assert data(*words, "--force")[0] == 0
    assert "old" not in names(folder / "set")
    assert not [name for name in names(folder) if name.startswith(".")]
