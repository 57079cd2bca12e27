"""What the documentation tells people to type works."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
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


SYMMETRIC_RUN = """
import sys
from ray.scripts.scripts import start
from ray.scripts.symmetric_run import symmetric_run

context = symmetric_run.make_context("symmetric-run", sys.argv[1:])
assert context.params["min_nodes"] == 2, context.params
start.make_context("start", ["--address", "127.0.0.1:6379", *context.params["ray_args_and_entrypoint"]])
"""
"""In a process of its own: Ray reads its environment when it is imported, and other tests start one."""


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.sbatch")), ids=lambda script: script.name)
def test_every_batch_script_is_bash_whose_commands_take_their_options(script, capsys, monkeypatch):
    assert subprocess.run(["bash", "-n", script], capture_output=True, check=True).stderr == b""
    text = script.read_text(encoding="utf-8").replace("\\\n", " ")
    (srun,) = (line for line in text.splitlines() if line.startswith("srun "))
    line = (
        srun.replace('"$processes"', "8").replace('"$SLURM_JOB_NUM_NODES"', "2").replace('"$address"', "127.0.0.1:6379")
    )
    words = shlex.split(re.sub(r'"\$SLURM_\w+"', "4", line))
    launcher = next(name for name in ("symmetric-run", "torchrun") if name in words)
    started = words[words.index(launcher) + 1 :]
    if launcher == "torchrun":
        from torch.distributed.run import parse_args

        parsed = parse_args(started)
        assert (parsed.module, parsed.training_script) == (True, "vla_cl.cli.main")
        ours = parsed.training_script_args
    else:
        if importlib.util.find_spec("ray") is None:
            pytest.skip("Ray is not installed")
        ours = started[started.index("--") + 2 :]
        subprocess.run([sys.executable, "-c", SYMMETRIC_RUN, *started[: started.index("--")]], check=True)
    assert main([*ours, "--dry-run"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_named_file_of_the_package_exists(page):
    for name in re.findall(r"`(vla_cl/[\w/]+(?:\.py|/))`", page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name
