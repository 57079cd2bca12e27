"""`vla-cl data`, as a user runs it: on real demonstrations, and on damaged ones."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from vla_cl.cli.main import main
from vla_cl.data import CollectionOptions, DemonstrationFile, collect_demonstrations
from vla_cl.envs import ObservationOptions
from vla_cl.tasks import find_task

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four real demonstrations without images. Not to be changed."""
    path = tmp_path_factory.mktemp("demonstrations") / "window-close.hdf5"
    observation = ObservationOptions(cameras=(), privileged=True)
    return collect_demonstrations(find_task("window-close"), path, CollectionOptions(4), observation, processes=1)


@pytest.fixture
def file(collected: Path, tmp_path: Path) -> Path:
    """A copy in the present folder."""
    return Path(shutil.copy(collected, tmp_path / "file.hdf5"))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Run `vla-cl data WORD...` in this process; return status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers = list(root.handlers)

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["data", *words])
        return status, *capfd.readouterr()

    yield run
    root.handlers[:] = handlers  # the command's own writes to a stream that ends with the test


def damage(path: Path) -> None:
    with h5py.File(path, "r+") as raw:
        raw["data/demo_1/actions"][0, 0] += 0.001


def assert_one_line(outcome: tuple[int, str, str], *fragments: str) -> None:
    status, _, complaint = outcome
    assert status == 2, complaint
    (line,) = complaint.splitlines()
    assert line.startswith("error: ")
    for fragment in fragments:
        assert fragment in line


@pytest.mark.parametrize("command", ["inspect", "validate", "rerender", "split", "merge"])
def test_each_command_explains_itself_with_an_example(data: Command, command: str) -> None:
    status, said, _ = data(command, "-h")
    assert status == 0
    assert f"vla-cl data {command}" in said
    assert "Example" in said


def test_inspect_describes_one_file_at_length_and_several_in_a_table(data: Command, file: Path) -> None:
    status, said, _ = data("inspect", "file.hdf5")
    assert status == 0
    for fragment in ("close the window", "meta_world/window-close", "4, 4 of them successful", "right", "saturated"):
        assert fragment in said
    shutil.copy(file, file.with_name("second.hdf5"))
    damage(file.with_name("second.hdf5"))
    status, said, _ = data("inspect", ".")
    assert status == 0
    header, first, second = said.splitlines()
    assert "checksum" in header
    assert first.split()[0] == "file.hdf5" and first.split()[-1] == "ok"
    assert second.split()[0] == "second.hdf5" and second.split()[-1] == "WRONG"


def test_inspect_prints_json_and_goes_past_what_it_cannot_read(data: Command, file: Path) -> None:
    (file.parent / "broken.hdf5").write_bytes(file.read_bytes()[:50_000])
    status, said, complaint = data("inspect", ".", "--json")
    assert status == 2
    (line,) = complaint.splitlines()
    assert line.startswith("error: broken.hdf5 is truncated; delete it and collect again")
    (found,) = json.loads(said)
    assert (found["task"], found["demonstrations"], found["intact"]) == ("window-close", 4, True)
    assert len(found["actions"]["saturation"]) == 4


def test_validate_prints_one_line_a_file_and_fails_when_any_is_wrong(data: Command, file: Path) -> None:
    status, said, _ = data("validate", "file.hdf5", "--replay", "all")
    assert (status, said) == (0, "file.hdf5: ok, 4 demonstrations, 4 replayed\n")
    damage(Path(shutil.copy(file, file.with_name("damaged.hdf5"))))
    (file.parent / "broken.hdf5").write_bytes(file.read_bytes()[:50_000])
    status, said, _ = data("validate", ".", "--replay", "1")
    assert status == 1
    broken, damaged, sound = said.splitlines()
    assert broken.startswith("broken.hdf5: is truncated")
    assert damaged.startswith("damaged.hdf5: was changed after it was written")
    assert sound == "file.hdf5: ok, 4 demonstrations, 1 replayed"
    status, said, _ = data("validate", ".", "--replay", "0", "--json")
    assert status == 1
    assert [each["sound"] for each in json.loads(said)] == [False, False, True]


def test_split_merge_and_validate_go_together(data: Command, file: Path) -> None:
    into = "train=0.75,validation=0.25"
    assert data("split", "file.hdf5", "--into", into, "--files")[0] == 0
    status, _, said = data("merge", "file-train.hdf5", "file-validation.hdf5", "merged.hdf5")
    assert status == 0
    assert "wrote merged.hdf5: 4 demonstrations" in said
    status, _, said = data("split", "merged.hdf5", "--into", into, "--seed", "3")
    assert status == 0
    assert "train 3, validation 1" in said
    assert "checksum has changed" in said
    assert data("validate", ".", "--replay", "all")[0] == 0
    with DemonstrationFile("merged.hdf5") as merged:
        assert list(merged.splits) == ["train", "validation"]


def test_rerender_draws_what_was_asked_for_and_drops_it_again(data: Command, file: Path) -> None:
    words = ("--cameras", "corner2", "--image-size", "96", "--rendering", "mesh_detail=0.01", "--processes", "2")
    assert data("rerender", "file.hdf5", "drawn.hdf5", *words)[0] == 0
    with DemonstrationFile("drawn.hdf5") as drawn:
        assert (drawn.cameras, drawn.image_size) == (("corner2",), 96)
        assert drawn.rendering_options.mesh_detail == 0.01
        assert drawn.environment_state_dim > 0
    assert data("rerender", "drawn.hdf5", "drawn.hdf5", "--cameras", "none", "--overwrite")[0] == 0
    assert data("validate", "drawn.hdf5")[0] == 0
    assert sorted(path.name for path in file.parent.iterdir()) == ["drawn.hdf5", "file.hdf5"]


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (("inspect", "absent.hdf5"), ("absent.hdf5", "does not exist")),
        (("inspect", "file.hdf5", "--picture", "p.png"), ("no images", "vla-cl data rerender")),
        (("validate", "file.hdf5", "--replay", "some"), ("--replay", "'all'", "some")),
        (("validate", "absent"), ("absent", "does not exist")),
        (("rerender", "file.hdf5", "file.hdf5"), ("is there already", "--overwrite")),
        (("rerender", "file.hdf5", "new.hdf5", "--cameras", "nowhere"), ("camera", "nowhere", "corner2")),
        (("rerender", "file.hdf5", "new.hdf5", "--cameras", "corner2,,"), ("--cameras", "corner2,,")),
        (("rerender", "file.hdf5", "new.hdf5", "--rendering", "shadow=true"), ("shadow", "shadows")),
        (("rerender", "file.hdf5", "new.hdf5", "--rendering", "shadows=perhaps"), ("shadows", "true or false")),
        (("split", "file.hdf5", "--into", "train"), ("--into", "train=0.8,validation=0.2")),
        (("split", "file.hdf5", "--into", "train=0.5,train=0.5"), ("train", "twice")),
        (("split", "file.hdf5", "--into", "train=0.5"), ("add up to 1", "0.5")),
        (("split", "file.hdf5", "--into", "train=0.99,valid=0.01"), ("valid", "empty")),
        (("split", "file.hdf5"), ("--into",)),
        (("merge", "file.hdf5", "new.hdf5"), ("at least two",)),
        (("merge", "file.hdf5", "file.hdf5"), ("is there already", "--overwrite")),
        (("validate", "file.hdf5", "--plugin", "absent.py"), ("absent.py",)),
    ],
    ids=lambda words: " ".join(words[-2:]),
)
def test_a_mistake_is_one_line_and_changes_nothing(
    data: Command, file: Path, words: tuple[str, ...], fragments: tuple[str, ...]
) -> None:
    before = file.read_bytes()
    assert_one_line(data(*words), *fragments)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_an_interrupted_rerender_leaves_nothing_behind(executable: str, file: Path) -> None:
    process = subprocess.Popen(
        [executable, "data", "rerender", "file.hdf5", "new.hdf5", "--cameras", "corner2", "--image-size", "256"],
        cwd=file.parent,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(file.parent.glob(".new.hdf5.*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C in a terminal does: the whole group gets it
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert "Traceback" not in complaint
    assert list(file.parent.iterdir()) == [file]
