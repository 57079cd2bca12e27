"""What the documentation tells people to type works."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from vla_cl.cli.main import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = ROOT / "docs" / "examples"


def commands(page: Path, start: str) -> list[str]:
    """The lines of a page's code blocks that start with some words, without comments."""
    lines = [line.strip() for line in page.read_text(encoding="utf-8").splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.startswith(start) and "KEY=VALUE" not in line]


RUNS = sorted({each for page in PAGES for start in ("vla-cl run ", "vla-cl grid ") for each in commands(page, start)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has after typing along: the files that the pages show, and those that `tasks new` writes."""
    folder = tmp_path_factory.mktemp("reader") / "files"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for command in sorted({command for page in PAGES for command in commands(page, "vla-cl tasks new ")}):
        words = shlex.split(command)[1:]
        assert main([*words, "--output", str(folder)]) == 0, command
    return folder


def test_there_are_commands_to_check():
    assert len(RUNS) > 10


@pytest.mark.parametrize("command", RUNS)
def test_every_documented_run_resolves(command, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    words = shlex.split(command)[1:]
    assert main([*words, "--dry-run"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_named_file_of_the_package_exists(page):
    for name in re.findall(r"`(vla_cl/[\w/]+(?:\.py|/))`", page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name
