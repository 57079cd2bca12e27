"""Print the requirements of pyproject.toml, with some extras, without some packages.

Usage: requirements_without.py EXCLUDED[,EXCLUDED...] EXTRA[,EXTRA...]
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def distribution(requirement: str) -> str:
    """The distribution a requirement names, normalised: "PyOpenGL>=3.1" is "pyopengl"."""
    return re.split(r"[\[<>=!~; ]", requirement.strip())[0].lower().replace("_", "-")


def requirements_without(project: dict, excluded: set[str], extras: list[str]) -> list[str]:
    """All requirements of a `[project]` table and its extras, following extras that name the project itself."""
    found = list(project["dependencies"])
    waiting = list(extras)
    while waiting:
        for requirement in project["optional-dependencies"][waiting.pop()]:
            if distribution(requirement) == distribution(project["name"]):
                waiting += requirement[requirement.index("[") + 1 : requirement.index("]")].split(",")
            else:
                found.append(requirement)
    return [requirement for requirement in found if distribution(requirement) not in excluded]


if __name__ == "__main__":
    table = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    print("\n".join(requirements_without(table, set(sys.argv[1].split(",")), sys.argv[2].split(","))))
