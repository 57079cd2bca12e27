"""A wheel built from the tree works outside of the checkout, and adds one name to site-packages."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy of what the repository tracks."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "vla_cl", source / "vla_cl", ignore=ignored)
    for link in ("envs", "tasks", "policies", "configs"):
        (source / link).symlink_to((ROOT / link).readlink())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a new environment with the wheel, which borrows the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
    borrowed = packages / "borrowed"
    borrowed.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "vla_cl" not in entry.name:  # leaves out the editable installation of the checkout
            (borrowed / entry.name).symlink_to(entry)
    (packages / "borrowed.pth").write_text(f"{borrowed}\n")
    return folder / "bin"


def test_the_wheel_adds_one_name(wheel):
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"vla_cl"}


def test_the_wheel_holds_all_that_is_not_code(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    files = [path for path in (ROOT / "vla_cl").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert not {str(path.relative_to(ROOT)) for path in files} - held
    assert "vla_cl/py.typed" in held
    assert "vla_cl/configs/preset/quickstart.yaml" in held


def test_the_installed_wheel_lists_suites_outside_of_the_checkout(installed, tmp_path):
    command = [str(installed / "vla-cl"), "suites", "--json"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "mw5" in {suite["name"] for suite in json.loads(result.stdout)}


def test_the_installed_wheel_resolves_its_presets(installed, tmp_path):
    command = [str(installed / "vla-cl"), "run", "--preset", "quickstart", "--dry-run"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "suite: " in result.stdout


def test_the_installed_wheel_is_what_runs(installed, tmp_path):
    code = "import vla_cl; print(vla_cl.__file__)"
    command = [str(installed / "python"), "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not Path(result.stdout.strip()).is_relative_to(ROOT)


def test_who_cites_it_names_the_version() -> None:
    import yaml

    from vla_cl import __version__

    cited = yaml.safe_load((Path(__file__).resolve().parents[1] / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == __version__ and cited["license"] == "MIT"
