"""The drift probe: how far each layer's representation of a task has moved since the task was learned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vla_cl.data import WindowDataset
from vla_cl.policies.representation import debiased_cka, layers_to_watch, linear_cka, recorded
from vla_cl.probes.result_file import ResultFile
from vla_cl.probes.subject import Learned, Subject
from vla_cl.progress import Counter, progress_bar
from vla_cl.seeding import numpy_generator, torch_generator
from vla_cl.tasks import Task

CHUNK = 64
"""Windows that go through a policy at once."""
CONTEXT = "context"
"""Beside the layers: what the head is given."""


def probe_drift(subject: Subject) -> None:
    """Compare, layer by layer, what the policy made of a task's stored observations right after the task with what it
    makes of them after every later one, and write `drift.json`: linear CKA, plain and unbiased.

    The same windows of the task's demonstrations, at the same noise of the head, with what the strategy lets act.
    """
    options = subject.options
    file = ResultFile(subject.folder / "drift.json", {"windows": options.windows})
    tasks = [task for task in subject.probed() if subject.places[task.name] < subject.last]
    later = sum(subject.last - subject.places[task.name] for task in tasks)
    with progress_bar(f"drift of {len(tasks)} tasks", later) as advance:
        count = Counter(advance)
        for task in tasks:
            file.found(task.name, lambda task=task: _drift(subject, task, count))  # type: ignore[misc]


def _drift(subject: Subject, task: Task, count: Counter) -> dict[str, Any]:
    data = subject.learning.demonstrations(task)
    former = subject.after(task)
    reference = representation(former, task, data, subject.options.windows, subject.config.seed)
    stages = [stage for stage in subject.trained if stage > former.stage]
    found = []
    for stage in stages:
        found.append(representation(subject.at(stage), task, data, subject.options.windows, subject.config.seed))
        count(stage)
    layers = [name for name, rows in reference.items() if all(len(now.get(name, ())) == len(rows) for now in found)]
    return {
        "learned": former.stage,
        "stages": stages,
        "layers": layers,
        "cka": [[linear_cka(reference[layer], now[layer]) for layer in layers] for now in found],
        "unbiased_cka": [[debiased_cka(reference[layer], now[layer]) for layer in layers] for now in found],
    }


@torch.no_grad()
def representation(
    learned: Learned, task: Task, data: WindowDataset, count: int, seed: int, layers: tuple[str, ...] | None = None
) -> dict[str, Tensor]:
    """What each layer of a policy makes of some of a task's windows, (rows, D) each, in one order of rows.

    Args:
        learned: Policy and strategy.
        task: Told to a strategy that must know it.
        data: Its demonstrations.
        count: How many windows; all where there are fewer.
        seed: Of the draw and of the head's noise: equal ones give the same windows and noise.
        layers: Which; None is all that count.
    """
    policy, strategy = learned.policy, learned.strategy
    device = next(policy.parameters()).device
    chosen = sorted(int(each) for each in numpy_generator(seed, "drift", task.name).permutation(len(data))[:count])
    contexts: list[Tensor] = []
    with recorded(policy, layers or layers_to_watch(policy)) as found:
        for start in range(0, len(chosen), CHUNK):
            batch = data.batch(chosen[start : start + CHUNK]).to(device)
            observation = batch.observation
            if strategy.needs.task_id_at_test:
                observation = replace(observation, task=(task.name,) * len(batch))
            noise = policy.head.sample_noise(len(batch), torch_generator(seed, "drift", start)).to(device)
            before = {layer: len(parts) for layer, parts in found.items()}
            with strategy.acting_pass(observation):
                for layer, parts in found.items():  # what a strategy looks at to choose is not what acts
                    del parts[before[layer] :]
                contexts.append(policy.imitate(batch, noise).context.pooled().float().cpu())
    kept = {layer: torch.cat(parts) for layer, parts in found.items() if parts}
    return {CONTEXT: torch.cat(contexts), **kept}
