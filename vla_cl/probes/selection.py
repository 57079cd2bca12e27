"""What was forgotten, seen from selection states: success right after each task, and in the end."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from vla_cl.evaluation.verdicts import is_forgotten, verdict
from vla_cl.files import write_json
from vla_cl.probes.result_file import ResultFile
from vla_cl.probes.subject import Subject
from vla_cl.progress import Counter, progress_bar
from vla_cl.tasks import Task


def success_before_and_after(subject: Subject) -> dict[str, dict[str, Any]]:
    """Of each task that others came after: "former" and "final" successes, in so many "episodes".

    They are measured anew, since the run's own episodes start from test states, which nothing may be chosen by.
    """
    episodes = subject.options.episodes
    file = ResultFile(subject.folder / "success.json", {"episodes": episodes})
    tasks = [task for task in subject.probed() if subject.places[task.name] < subject.last]
    missing = [task for task in tasks if task.name not in file.tasks]
    if not missing:
        return {task.name: file.tasks[task.name] for task in tasks}
    subject.check(missing)
    end = subject.end()
    with progress_bar("success on selection states", 2 * len(missing) * episodes) as advance:
        count = Counter(advance)

        def measure(task: Task) -> dict[str, Any]:
            former = subject.successes(subject.after(task), task, count)
            return {"former": former, "final": subject.successes(end, task, count), "episodes": episodes}

        return {task.name: file.found(task.name, lambda task=task: measure(task)) for task in tasks}  # type: ignore[misc]


def forgotten_tasks(subject: Subject) -> dict[str, dict[str, Any]]:
    """Those of `success_before_and_after` that were forgotten."""
    share = subject.options.share
    found = success_before_and_after(subject)
    return {name: each for name, each in found.items() if is_forgotten(each["former"], each["final"], share)}


def judge(subject: Subject) -> None:
    """Write `verdicts.json`: what became of each task, by all that was found of it under any options of its probes. It
    is not written before success was measured.
    """
    options, trained = subject.options, subject.config.training.steps
    success, scale, recovery = (_tasks(subject, name) for name in ("success", "scale", "recovery"))
    verdicts = {
        task: verdict(
            found,
            _comparable(scale.get(task), found),
            _comparable(recovery.get(task), found),
            share=options.share,
            least_scale=options.least_scale,
            few=options.few_steps(trained),
        )
        for task, found in success.items()
    }
    if verdicts:
        told = {task: {**asdict(each), "savings": each.savings} for task, each in verdicts.items()}
        settings = {"share": options.share, "least_scale": options.least_scale, "few": options.few_steps(trained)}
        write_json(subject.folder / "verdicts.json", {"settings": settings, "tasks": told})


def _comparable(probed: dict[str, Any] | None, success: dict[str, Any]) -> dict[str, Any] | None:
    """What was probed on as many episodes as success was measured on."""
    return probed if probed is not None and probed["episodes"] == success["episodes"] else None


def _tasks(subject: Subject, name: str) -> dict[str, Any]:
    """What a probe found so far."""
    path = subject.folder / f"{name}.json"
    tasks: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["tasks"] if path.exists() else {}
    return tasks
