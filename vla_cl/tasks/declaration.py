"""Tasks declared in a YAML file: `--plugin tasks.yaml` registers them, without a line of Python."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from vla_cl.errors import ConfigurationError, VlaClError
from vla_cl.registry import PLUGIN_LOADERS, Registry, load_plugins
from vla_cl.tasks.register import add_task
from vla_cl.tasks.task import Task

SUFFIXES = (".yaml", ".yml")
FILE_KEYS = ("suite", "description", "plugins", "tasks")
"""Keys of a file beside those of a task: a key of a task at the top of the file holds for all of its tasks."""

REQUIRED = ("name", "instruction", "horizon", "backend")

READERS: Registry[Callable[[dict[str, Any], Path], dict[str, Any]]] = Registry("reader of declarations", "vla_cl.tasks")
"""By backend: turns what a declaration says, beyond a task's own fields, into `arguments`.

A reader is called with the keys that are not fields of `Task` and with the file, and returns the backend's arguments.
Without one, such keys are mistakes, and `arguments` is handed over as it is.
"""


class _Lines(dict[str, Any]):
    """A mapping that knows on which line of the file each of its keys is."""

    lines: dict[str, int]


class _Loader(yaml.SafeLoader):
    def construct_lines(self, node: yaml.MappingNode) -> Any:
        mapping = _Lines()
        mapping.lines = {}
        yield mapping
        mapping.update({str(key): value for key, value in self.construct_mapping(node, deep=True).items()})
        mapping.lines = {str(key.value): key.start_mark.line + 1 for key, _ in node.value}


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _Loader.construct_lines)


def load_declarations(path: Path) -> tuple[Task, ...]:
    """Register the tasks that a file declares: each as a suite of one, and together as `suite` where one is named.

    The file is a mapping with the fields of `Task` (`name`, `instruction`, `horizon`, `backend`, `arguments`, `expert`,
    `paraphrases`, `held_out_paraphrases`), or a list `tasks` of such mappings beside what they share. `plugins` names
    modules and files to load first, relative to this file: experts are usually there.

    Raises:
        ConfigurationError: Something is missing, unknown or unusable; the message names the file and the line.
    """
    try:
        declared = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigurationError(f"{path.name}, line {line}: {error.problem or error.context}") from error
    if not isinstance(declared, _Lines):
        raise ConfigurationError(f"{path.name} must be a mapping with name, instruction, horizon and backend")
    load_plugins(declared.get("plugins", []), path.parent)
    shared = {key: value for key, value in declared.items() if key not in FILE_KEYS}
    entries = declared.get("tasks", [_Lines()])
    if not isinstance(entries, list) or not all(isinstance(entry, _Lines) for entry in entries):
        raise ConfigurationError(f"{path.name}, line {declared.lines['tasks']}: tasks must be a list of mappings")
    tasks = tuple(_task({**shared, **entry}, declared, entry, path) for entry in entries)
    for task in tasks:
        add_task(task, str(declared.get("suite", "")), str(declared.get("description", "")))
    return tasks


def _task(fields: dict[str, Any], declared: _Lines, entry: _Lines, path: Path) -> Task:
    lines = {**declared.lines, **getattr(entry, "lines", {})}
    line = min(getattr(entry, "lines", {}).values(), default=1)
    for key in REQUIRED:
        if key not in fields:
            raise ConfigurationError(f"{path.name}, line {line}: a task needs {key!r} (and {_joined(REQUIRED)})")
    own = [field.name for field in dataclasses.fields(Task) if field.name != "seeds"]
    others = {key: value for key, value in fields.items() if key not in own}
    backend = str(fields["backend"])
    reader = None
    if backend in READERS:
        reader = READERS[backend]
    elif others:
        key = next(iter(others))
        near = difflib.get_close_matches(key, [*own, *FILE_KEYS], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {_joined([*own, *FILE_KEYS])}"
        raise ConfigurationError(f"{path.name}, line {lines[key]}: key {key!r} is unknown; {hint}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items() if key in own}
    try:
        if reader is not None:
            values["arguments"] = {**fields.get("arguments", {}), **reader(others, path)}
        return Task(**_checked(values))
    except VlaClError as error:
        raise ConfigurationError(f"{path.name}, line {line}: {error}") from error


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    kinds = {"name": str, "instruction": str, "backend": str, "expert": str, "horizon": int, "arguments": dict}
    for key, kind in kinds.items():
        if key in values and not isinstance(values[key], kind):
            raise ConfigurationError(f"{key} must be {kind.__name__}, got {values[key]!r}")
    return {**values, "arguments": _plain(values.get("arguments", {}))}


def _plain(value: Any) -> Any:
    """Ordinary dictionaries and lists, which pickle and compare everywhere."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names)


PLUGIN_LOADERS.update(dict.fromkeys(SUFFIXES, load_declarations))
