"""The recovery probe: how little fine-tuning brings a forgotten task back, beside what learning it took at first."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vla_cl.probes.relearning import Relearning, let_train, trained_at_first
from vla_cl.probes.result_file import ResultFile
from vla_cl.probes.selection import forgotten_tasks
from vla_cl.probes.subject import Learned, Subject
from vla_cl.progress import Counter, progress_bar
from vla_cl.tasks import Task
from vla_cl.training import IntervalCheckpoints, TrainingOptions, fit, with_cached_features

logger = logging.getLogger(__name__)


def probe_recovery(subject: Subject) -> None:
    """Fine-tune on the demonstrations of each forgotten task, try it after some of the steps, and write
    `recovery.json`.

    The policy of the run's end is fine-tuned without the strategy's losses, replay and freezing, at a constant learning
    rate, while the strategy still chooses what acts. Beside it, unless `control` is off, the same is done with the
    policy as it was before it first learned the task: "few steps" means something only beside that.
    """
    options, trained = subject.options, subject.config.training.steps
    training = relearning_options(subject)
    settings = {
        "episodes": options.episodes,
        "steps": [0, *options.recovery_steps(trained)],
        "learning_rate": training.learning_rate,
        "control": options.control,
    }
    file = ResultFile(subject.folder / "recovery.json", settings)
    first = trained_at_first(subject.at(subject.trained[0]).policy)
    if not let_train(subject.end().policy, first):
        logger.warning("the first task of this run trained nothing of its policy: there is nothing to fine-tune")
        return
    forgotten = forgotten_tasks(subject)
    for task in subject.probed():
        if task.name in forgotten:
            file.found(task.name, lambda task=task: _recovery(subject, task, training, first))  # type: ignore[misc]


def relearning_options(subject: Subject) -> TrainingOptions:
    """The run's options of training, but for a constant rate and weights that are not averaged."""
    own, options = subject.config.training, subject.options
    return replace(
        own,
        steps=options.recovery_steps(own.steps)[-1],
        learning_rate=own.learning_rate if options.rate is None else options.rate,
        schedule="constant",
        warmup_steps=0,
        ema=0.0,
        checkpoint_every=0,
    )


def _recovery(
    subject: Subject, task: Task, training: TrainingOptions, first_trained: Mapping[str, bool]
) -> dict[str, Any]:
    options = subject.options
    steps = [0, *options.recovery_steps(subject.config.training.steps)]
    curves = 2 if options.control else 1
    with progress_bar(f"recovery of {task.name}", curves * len(steps) * options.episodes) as advance:
        count = Counter(advance)
        end = subject.end()
        let_train(end.policy, first_trained)
        relearned = _curve(subject, end, task, training, steps, count)
        before = subject.before(task)
        if options.control and let_train(before.policy, first_trained):  # without adapters, nothing may be left
            first = _curve(subject, before, task, training, steps, count)
        else:
            first = None
    return {"steps": steps, "relearned": relearned, "first": first, "episodes": options.episodes}


def _curve(
    subject: Subject, learned: Learned, task: Task, training: TrainingOptions, steps: list[int], count: Counter
) -> list[int]:
    """Successes after so many steps of fine-tuning each."""
    policy = learned.policy
    strategy = Relearning(learned.strategy, task)
    strategy.bind(policy)
    data = with_cached_features(policy, subject.learning.demonstrations(task), training)
    place = subject.folder / ".fine_tuning.partial"
    checkpoints = IntervalCheckpoints(place)
    checkpoints.clear()
    tuned = Learned(learned.stage, policy, strategy)
    successes = []
    try:
        for step in steps:
            if step:
                fit(
                    policy,
                    data,
                    strategy,
                    training,
                    seed=subject.config.seed,
                    stage=len(subject.sequence) + subject.places[task.name],
                    until=step,
                    checkpoints=checkpoints,
                )
            successes.append(subject.successes(tuned, task, count))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return successes
