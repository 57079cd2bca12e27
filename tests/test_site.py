"""What the site takes from elsewhere when it is built, and what running text says of measurements."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from vla_cl.strategies import STRATEGIES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"
SIMULATION, LIBERO = "simulation_two_cores_no_gpu", "libero_two_cores_no_gpu"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """The hooks of the site, as MkDocs loads them: by path."""
    path = ROOT / "scripts" / "site_hooks.py"
    assert f"hooks: [{path.relative_to(ROOT)}]" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    specification = importlib.util.spec_from_file_location("site_hooks", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def built(site: ModuleType, name: str) -> str:
    return site.on_page_markdown(page(name), SimpleNamespace(file=SimpleNamespace(src_uri=name)))


def test_figures_come_from_the_files_of_results(site: ModuleType) -> None:
    text = built(site, "performance.md")
    measured = json.loads((RESULTS / "simulation_two_cores_no_gpu.json").read_text())["ratios"]["pixels_chunk_8"]
    assert f"drawing at every step | {measured:.0f} |" in text
    assert "{{" not in text and "<!--" not in text


def test_the_cost_of_a_step_is_told_for_every_width(site: ModuleType) -> None:
    runs = json.loads((RESULTS / "strategies_two_cores_no_gpu.json").read_text())["runs"]
    lines = built(site, "performance.md").splitlines()
    (line,) = [line for line in lines if line.startswith("| `clmoe` |")]
    assert [cell.strip() for cell in line.strip("|").split("|")][1:3] == [
        f"{run['strategies']['clmoe']['ratio']:.2f}" for run in runs[:2]
    ]
    assert sum(line.startswith("| `") for line in lines) >= len(runs[0]["strategies"])


def test_every_figure_names_a_place_that_is_there(site: ModuleType) -> None:
    """A file may not be measured yet; in one that is, a key that leads nowhere is a mistake."""
    for name in ("performance.md", "policies_reference.md"):
        found = site.FIGURE.findall(page(name))
        assert found
        for stem, place in found:
            path = RESULTS / f"{stem}.json"
            assert not path.exists() or site.find(path, place) is not None, (name, stem, place)


def test_what_is_not_measured_is_said_to_be_so(site: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text('{"ratios": {"a, b": 12.6, "small": 0.123}, "demonstrations": 3}')
    text = "{{ speed: ratios.a, b }} {{ speed: ratios.small }} {{ speed: ratios.none }} {{ other: ratio }}"
    assert site.with_figures(text, tmp_path) == "13 0.12 not measured not measured"
    assert site.other_figures("", tmp_path).count("{{") == 2  # demonstrations are no ratio
    assert site.other_figures("{{ speed: ratios.small }}", tmp_path) == "*None.*"


def test_schemas_are_put_in_as_tables(site: ModuleType) -> None:
    text = built(site, "file_formats.md")
    assert "| `success` | boolean | whether the task's predicate held within the horizon |" in text
    assert "| `[].collect_seconds` | number, at least 0; may be missing |" in text
    assert "<!--" not in text


def test_strategies_say_what_they_declare(site: ModuleType) -> None:
    text = built(site, "strategies_reference.md")
    headings = [name for name in re.findall(r"^### `(\w+)`", text, re.MULTILINE) if name in STRATEGIES]
    section = text.split("### `packnet`")[1].split("\n### ")[0]
    assert "**Needs** the task at test · **works without boundaries** no · **ledger**" in section
    assert text.count("**Needs**") == len(headings)


CLAIMS = [
    ("README.md", r"Lift steps (\d+) times as fast", SIMULATION, "ratios.pixels_every_step"),
    ("README.md", r"^\s*(\d+) times when a policy looks every", SIMULATION, "ratios.pixels_chunk_8"),
    ("docs/tasks.md", r"one run\): (\d+) when it draws at every step", SIMULATION, "ratios.pixels_every_step"),
    ("docs/tasks.md", r"every step, (\d+) when it draws once", SIMULATION, "ratios.pixels_chunk_8"),
    ("docs/tasks.md", r"(\d\.\d) without drawing", SIMULATION, "ratios.no_pixels"),
    ("docs/libero.md", r"`turn_on_the_stove` steps (\d+) times", LIBERO, "ratios.pixels_every_step"),
    ("docs/libero.md", r"and (\d+) times when they are looked at", LIBERO, "ratios.pixels_chunk_8"),
]
"""Page, where its text states a ratio, and where that was measured."""


@pytest.mark.parametrize(("name", "pattern", "stem", "place"), CLAIMS)
def test_ratios_in_running_text_are_those_that_were_measured(
    site: ModuleType, name: str, pattern: str, stem: str, place: str
) -> None:
    """Within a tenth: what is measured again differs a little, and the text need not follow every digit."""
    (match,) = re.finditer(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    claimed = float(next(group for group in match.groups() if group))
    measured = site.find(RESULTS / f"{stem}.json", place)
    assert claimed == pytest.approx(measured, rel=0.1), (
        f"{name} says {claimed:g}, {stem}.json {measured:g}: correct {name}"
    )
