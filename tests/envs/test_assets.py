"""Where LIBERO's files are found, what is missing of them, and how they are fetched."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from vla_cl.envs.assets import ASSETS, use_asset_roots
from vla_cl.envs.libero.fetch import PACKAGE_CHECKSUM, extract_task_files, fetch_models, fetch_task_files, files_of
from vla_cl.envs.libero.root import ROOT_VARIABLE, libero_root
from vla_cl.errors import ConfigurationError, DataFileError, UnknownNameError, VlaClError
from vla_cl.files import file_checksum


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any of LIBERO's files."""
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path / "configuration"))


def lay_out(folder: Path, assets: bool = True) -> Path:
    """The benchmark's folders, with one task."""
    for place, suffix in (("bddl_files", "bddl"), ("init_files", "pruned_init")):
        (folder / place / "libero_goal").mkdir(parents=True)
        (folder / place / "libero_goal" / f"turn_on_the_stove.{suffix}").touch()
    if assets:
        (folder / "assets").mkdir()
    return folder


def configure(tmp_path: Path, text: str) -> None:
    (tmp_path / "configuration").mkdir()
    (tmp_path / "configuration" / "config.yaml").write_text(text)


# --- finding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["", "libero/libero", "libero"])
def test_a_root_may_be_the_files_a_checkout_or_a_package(tmp_path: Path, layout: str):
    files = lay_out(tmp_path / "root" / layout)
    root = libero_root(tmp_path / "root")
    assert (root.bddl, root.initial_states, root.assets) == tuple(
        files / each for each in ("bddl_files", "init_files", "assets")
    )
    assert root.problem_path("libero_goal", "turn_on_the_stove").suffix == ".bddl"
    assert root.initial_states_path("libero_goal", "turn_on_the_stove").suffix == ".pruned_init"


def test_the_nearest_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A given path, the variable, LIBERO's own configuration, the download: each hides those after it."""
    given, named, configured, downloaded = (
        lay_out(tmp_path / each) for each in ("given", "named", "configured", "cache/vla_cl/libero")
    )
    assert libero_root().bddl.parent == downloaded
    configure(tmp_path, f"bddl_files: {configured}/bddl_files\ninit_states: {configured}/init_files\nassets: /none\n")
    assert libero_root().bddl.parent == configured
    monkeypatch.setenv(ROOT_VARIABLE, str(named))
    assert libero_root().bddl.parent == named and libero_root().found_by == ROOT_VARIABLE
    assert libero_root(given).bddl.parent == given


def test_downloaded_models_serve_a_root_without_any(tmp_path: Path):
    downloaded = lay_out(tmp_path / "cache/vla_cl/libero")
    bare, whole = lay_out(tmp_path / "bare", assets=False), lay_out(tmp_path / "whole")
    assert libero_root(bare).assets == downloaded / "assets"
    assert libero_root(whole).assets == whole / "assets"


def test_nothing_found_is_one_line_with_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for message in ("were not found", "holds no bddl_files"):
        with pytest.raises(ConfigurationError, match=message) as caught:
            libero_root()
        assert ROOT_VARIABLE in str(caught.value) and "vla-cl assets fetch libero" in str(caught.value)
        monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))


@pytest.mark.parametrize("text", ["bddl_files: /nowhere\ninit_states: /nowhere\n", "- a list\n", ""])
def test_a_configuration_that_leads_nowhere_is_passed_over(tmp_path: Path, text: str):
    configure(tmp_path, text)
    with pytest.raises(ConfigurationError, match="were not found"):
        libero_root()


def test_libero_s_configuration_is_read_without_making_objects(tmp_path: Path):
    canary = tmp_path / "canary"
    configure(tmp_path, f"bddl_files: !!python/object/apply:os.mkdir ['{canary}']\n")
    with pytest.raises(ConfigurationError, match="is not YAML"):
        libero_root()
    assert not canary.exists()


def test_unknown_names_get_the_nearest(tmp_path: Path):
    root = libero_root(lay_out(tmp_path / "root"))
    with pytest.raises(UnknownNameError, match="did you mean 'libero_goal'"):
        root.problem_path("libero_gaol", "turn_on_the_stove")
    with pytest.raises(UnknownNameError, match="did you mean 'turn_on_the_stove'"):
        root.initial_states_path("libero_goal", "turn_on_the_stoves")
    with pytest.raises(UnknownNameError):
        root.problem_path("libero_goal", "../libero_goal/turn_on_the_stove")


def test_a_root_of_the_configuration_reaches_this_process_and_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(ROOT_VARIABLE, "/elsewhere")
    root = lay_out(tmp_path / "root")
    use_asset_roots({"libero": str(root)}, keep_environment=True)
    assert os.environ[ROOT_VARIABLE] == "/elsewhere"
    use_asset_roots({"libero": str(root)})
    assert libero_root().bddl.parent == root
    code = "from vla_cl.envs.libero.root import libero_root; print(libero_root().bddl.parent)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == str(root)
    with pytest.raises(UnknownNameError, match="did you mean 'libero'"):
        use_asset_roots({"librero": str(root)})
    with pytest.raises(ConfigurationError, match=r"assets\.libero: .* is not a folder"):
        use_asset_roots({"libero": str(tmp_path / "none")})


# --- what is missing -------------------------------------------------------------------------------------------


def test_models_are_asked_for_their_files(tmp_path: Path):
    (tmp_path / "models").mkdir()
    model = tmp_path / "models" / "bowl.xml"
    model.write_text(
        '<mujoco><asset><mesh file="bowl.msh"/><texture type="cube" fileup="../up.png" filedown="../down.png"/>'
        '<texture builtin="flat"/></asset></mujoco>'
    )
    assert files_of(model) == {
        "meshes": {tmp_path / "models" / "bowl.msh"},
        "textures": {tmp_path / "up.png", tmp_path / "down.png"},
    }
    model.write_text("<mujoco>")
    with pytest.raises(DataFileError, match=r"bowl\.xml is not XML"):
        files_of(model)


def test_the_inventory_counts_what_is_there_and_names_what_is_not(libero_root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ROOT_VARIABLE, str(libero_root))
    inventory = ASSETS["libero"].find()
    assert inventory.present["task files"] == inventory.present["initial states"] == 130
    for kind, suffixes in (("meshes", (".msh", ".stl", ".obj")), ("textures", (".png", ".jpeg", ".jpg"))):
        assert inventory.present[kind] > 0
        for path in inventory.missing[kind]:
            assert not path.exists() and path.suffix.lower() in suffixes


# --- fetching --------------------------------------------------------------------------------------------------

MEMBERS = {
    "libero/libero/bddl_files/libero_goal/a.bddl": "new task",
    "libero/libero/init_files/libero_goal/a.pruned_init": "new states",
    "libero/libero/init_files/libero_goal/a.init": "not needed",
    "libero/libero/bddl_files/README.md": "not needed",
    "libero/libero/envs/bddl_utils.py": "code",
    "hf_libero-0.1.4.dist-info/licenses/LICENSE": "the licence",
    "libero/libero/bddl_files/../../../escaped.bddl": "outside",
    "libero/libero/bddl_files/libero_goal/../../escaped.bddl": "outside",
    "/libero/libero/bddl_files/libero_goal/escaped.bddl": "outside",
}


def wheel_of(folder: Path, members: dict[str, str]) -> Path:
    path = folder / "hf_libero-0.1.4-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def files_in(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_only_task_files_and_initial_states_leave_a_wheel_and_none_of_them_the_folder(tmp_path: Path):
    wheel = wheel_of(tmp_path, MEMBERS)
    before = set(tmp_path.rglob("*"))
    (tmp_path / "deep" / "target" / "bddl_files").mkdir(parents=True)
    (tmp_path / "deep" / "target" / "bddl_files" / "old.bddl").write_text("outdated")
    extract_task_files(wheel, tmp_path / "deep" / "target", file_checksum(wheel))
    assert files_in(tmp_path / "deep") == {
        "target/bddl_files/libero_goal/a.bddl": "new task",
        "target/init_files/libero_goal/a.pruned_init": "new states",
        "target/LICENSE": "the licence",
    }
    assert {path for path in tmp_path.rglob("*") if "deep" not in path.parts} == before
    assert not list((tmp_path / "deep").rglob("*.partial"))


def test_a_wheel_that_is_not_the_known_one_is_not_opened(tmp_path: Path):
    wheel = wheel_of(tmp_path, MEMBERS)
    with pytest.raises(DataFileError, match=f"not {PACKAGE_CHECKSUM}; nothing of it was used"):
        extract_task_files(wheel, tmp_path / "target", PACKAGE_CHECKSUM)
    assert not (tmp_path / "target").exists()


def test_a_wheel_without_states_changes_nothing(tmp_path: Path):
    wheel = wheel_of(tmp_path, {name: text for name, text in MEMBERS.items() if "init_files" not in name})
    target = lay_out(tmp_path / "target")
    before = files_in(target)
    with pytest.raises(DataFileError, match="holds no init_files"):
        extract_task_files(wheel, target, file_checksum(wheel))
    assert files_in(target) == before and not list(target.glob(".*"))


@pytest.mark.network
def test_the_real_wheel_holds_all_tasks(tmp_path: Path):
    try:
        fetch_task_files(tmp_path / "target")
    except VlaClError as error:
        if isinstance(error, DataFileError):
            raise
        pytest.skip(f"no package index: {error}")
    root = libero_root(tmp_path / "target")
    assert len(list(root.bddl.glob("libero_*/*.bddl"))) == 130
    assert len(list(root.initial_states.glob("libero_*/*.pruned_init"))) == 130
    assert "MIT" in (tmp_path / "target" / "LICENSE").read_text()


def test_no_package_index_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for variable, value in (("PIP_INDEX_URL", "http://127.0.0.1:9/simple"), ("PIP_RETRIES", "0")):
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(VlaClError, match=r"pip cannot download hf-libero==0\.1\.4 .* package index") as caught:
        fetch_task_files(tmp_path / "target")
    assert "\n" not in str(caught.value) and not (tmp_path / "target").exists()


def test_no_hub_is_one_line_and_task_files_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tests run with the hub switched off (see conftest.py)."""
    target = lay_out(tmp_path / "target", assets=False)
    with pytest.raises(
        VlaClError, match=r"cannot download lerobot/libero-assets from the hub .* can be used"
    ) as caught:
        fetch_models(target)
    assert "\n" not in str(caught.value)
    assert libero_root(target).problem_path("libero_goal", "turn_on_the_stove").exists()
    assert not (target / "assets").exists()
