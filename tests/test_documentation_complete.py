"""Everything that is registered is documented, everything that is documented is registered."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from typer.main import get_command

from vla_cl import __version__
from vla_cl.cli.main import app
from vla_cl.config import policy_names
from vla_cl.policies import BACKBONES, HEADS
from vla_cl.protocols import protocol_names
from vla_cl.strategies import STRATEGIES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def built_in(registry: object, package: str = "vla_cl.") -> list[str]:
    """Names that this package registers; other tests may have loaded plug-ins."""
    return [name for name in registry if registry[name].__module__.startswith(package)]  # type: ignore[attr-defined, index]


def headings(text: str) -> set[str]:
    return set(re.findall(r"^### `([^`]+)`", text, re.MULTILINE))


def test_every_strategy_has_its_section_and_a_line_in_the_overview() -> None:
    names = built_in(STRATEGIES)
    assert len(names) >= 40
    assert headings(page("strategies_reference.md")) == set(names)
    rows = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| `.+?\|", page("strategies.md"), re.MULTILINE))))
    assert set(names) <= rows


def test_every_section_of_a_strategy_shows_its_own_module() -> None:
    for name in built_in(STRATEGIES):
        section = page("strategies_reference.md").split(f"### `{name}`\n")[1].split("\n### ")[0]
        assert f"::: {STRATEGIES[name].__module__}\n" in section
        assert f"::: {STRATEGIES[name].__module__}.{STRATEGIES[name].__qualname__}\n" in section


REFERENCES = {"sequential", "frozen", "single_task", "joint", "cumulative"}
"""Strategies that no paper introduced."""


def test_every_strategy_names_its_source_in_the_docstring_that_the_page_shows() -> None:
    for name in set(built_in(STRATEGIES)) - REFERENCES:
        told = f"{sys.modules[STRATEGIES[name].__module__].__doc__} {STRATEGIES[name].__doc__}"
        assert re.search(r"et al\.|arXiv", told), name


def test_every_preset_backbone_and_head_has_its_section() -> None:
    text = page("policies_reference.md")
    presets, backbones, heads = (
        set(re.findall(r"^### `(\w+)`", part, re.MULTILINE)) for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    )
    shipped = {path.stem for path in (ROOT / "vla_cl" / "configs" / "policy").glob("*.yaml")}
    assert shipped <= set(policy_names())
    assert presets == shipped
    assert backbones == set(built_in(BACKBONES))
    assert heads == set(built_in(HEADS))
    for kind in (BACKBONES, HEADS):
        for name in built_in(kind):
            options = kind[name].Options
            assert f"::: {options.__module__}.{options.__qualname__}\n" in text, name


ALIKE = {"cw20": "cw10", "tabletop_language": "tabletop_goal", "tabletop_dynamics": "tabletop_goal"}
"""Suites that look like others."""

NOT_DRAWN = {"libero_90"}
"""Suites whose contact sheets are still missing on the pages; draw them, and take them out here."""


def test_every_suite_has_a_line_and_a_contact_sheet() -> None:
    text = page("tasks.md") + page("libero.md")
    listing = "from vla_cl.tasks import SUITES; print(*SUITES)"  # without suites that other tests registered here
    names = subprocess.run([sys.executable, "-c", listing], check=True, capture_output=True, text=True).stdout.split()
    assert len(names) >= 19
    table = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| `.+?\|", page("tasks.md"), re.MULTILINE))))
    assert set(names) <= table
    shown = set(re.findall(r"!\[[^]]*]\(images/(\w+)\.png\)", text))
    assert set(names) - set(ALIKE) - shown <= NOT_DRAWN
    assert not NOT_DRAWN & shown
    assert set(ALIKE.values()) <= shown


def test_pictures_are_of_moderate_size() -> None:
    large = {path.name: path.stat().st_size for path in (DOCS / "images").iterdir() if path.stat().st_size > 250_000}
    assert not large


def test_every_protocol_that_ships_has_its_column() -> None:
    shipped = {path.stem for path in (ROOT / "vla_cl" / "configs" / "protocol").glob("*.yaml")}
    assert shipped <= set(protocol_names())
    (head,) = re.findall(r"^\| \| (`default`.*)$", page("evaluation.md"), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", head)) == shipped


def test_every_command_is_on_the_page_of_commands() -> None:
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        assert f"vla-cl {name}" in page("command_line.md") or f"`{name}`" in page("command_line.md"), name


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1]
    assert set(re.findall(r"[\w/]+\.md", text)) == {path.name for path in DOCS.glob("*.md")}


def test_the_changelog_begins_with_what_is_not_released_and_knows_the_version() -> None:
    versions = re.findall(r"^## \[(.+?)]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == "Unreleased" and versions[1] == __version__
    assert (DOCS / "changelog.md").read_text().strip() == '--8<-- "CHANGELOG.md"'
