"""Where a probe writes what it found, task by task, so that one that was killed goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vla_cl.files import write_json


class ResultFile:
    """One probe's JSON: `{"settings": {...}, "tasks": {name: {...}}}`.

    What was found under other settings is not kept.

    Args:
        path: The file; it appears with the first task.
        settings: All that decides the numbers beside the run.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.settings: dict[str, Any] = json.loads(json.dumps(dict(settings)))
        self.tasks: dict[str, dict[str, Any]] = {}
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["settings"] == self.settings:
                self.tasks = stored["tasks"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass  # nothing was found yet, or it cannot be read: it is found again

    def found(self, task: str, measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """What there is of a task, measured and written unless it is there."""
        if task not in self.tasks:
            self.tasks[task] = dict(measure())
            write_json(self.path, {"settings": self.settings, "tasks": self.tasks})
        return self.tasks[task]
