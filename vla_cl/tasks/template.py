"""New tasks from templates: files that run as they are, to be changed into one's own."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.files import write_text
from vla_cl.tasks.suite import SUITES
from vla_cl.tasks.task import TASK_NAME


@dataclass(frozen=True)
class TaskTemplate:
    """Files to write, with `$name`, `$module` and `$class_name` in their paths and their text.

    Args:
        files: Path of each file, and the file in `vla_cl/tasks/templates/` that its text comes from.
        next_step: What to do with them.
    """

    files: Mapping[str, str]
    next_step: str


TEMPLATES = {
    "class": TaskTemplate(
        {"$module.py": "task.py.template"},
        "vla-cl tasks check $name --plugin $module.py --picture $name.png",
    ),
    "scene": TaskTemplate(
        {"$module.yaml": "scene.yaml.template"},
        "vla-cl tasks check $name --plugin $module.yaml --picture $name.png",
    ),
    "package": TaskTemplate(
        {
            "$name/pyproject.toml": "pyproject.toml.template",
            "$name/README.md": "README.md.template",
            "$name/src/$module/__init__.py": "task.py.template",
            "$name/tests/test_$module.py": "test_task.py.template",
        },
        "pip install -e $name && vla-cl tasks check $name --picture $name.png",
    ),
}


@dataclass(frozen=True)
class WrittenTask:
    """Files of a new task, and the command to go on with."""

    files: tuple[Path, ...]
    next_step: str


def write_template(name: str, template: str = "class", folder: Path = Path()) -> WrittenTask:
    """Write a new task called `name`, which runs as it is.

    Args:
        name: Letters, digits, "-", "_" and "."; the Python module and the class are named after it.
        template: A key of `TEMPLATES`.
        folder: Where to write.

    Raises:
        ConfigurationError: The name cannot be used, or a file is there already; nothing is written then.
        UnknownNameError: No such template.
    """
    if template not in TEMPLATES:
        raise UnknownNameError("template", template, TEMPLATES)
    module = name.replace("-", "_").replace(".", "_").lower()
    if not TASK_NAME.fullmatch(name) or not module.isidentifier() or keyword.iskeyword(module):
        raise ConfigurationError(f"task name {name!r} is not usable; use words of letters and digits with dashes")
    if name in SUITES:
        raise ConfigurationError(f"{name!r} is the name of a suite already; choose another")
    names = {"name": name, "module": module, "class_name": "".join(word.title() for word in module.split("_"))}
    chosen = TEMPLATES[template]
    texts = resources.files("vla_cl.tasks") / "templates"
    files = {
        Path(folder) / _filled(path, names): _filled((texts / text).read_text(encoding="utf-8"), names)
        for path, text in chosen.files.items()
    }
    for path in files:
        if path.exists():
            raise ConfigurationError(f"{path} exists already; choose another name, or another --output")
    for path, text in files.items():
        write_text(path, text)
    place = "" if Path(folder) == Path() else f"cd {folder} && "
    return WrittenTask(tuple(files), place + _filled(chosen.next_step, names))


def _filled(text: str, names: Mapping[str, str]) -> str:
    return Template(text).substitute(names)
