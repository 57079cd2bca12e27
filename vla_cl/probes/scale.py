"""The scale probe: act with more or less of what was learned since a task, and see whether its skill comes back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vla_cl.policies import Policy
from vla_cl.policies.adapters import fold
from vla_cl.probes.result_file import ResultFile
from vla_cl.probes.selection import forgotten_tasks
from vla_cl.probes.subject import Subject
from vla_cl.progress import Counter, progress_bar
from vla_cl.tasks import Task


def probe_scale(subject: Subject) -> None:
    """Sweep the scale of what was learned since each forgotten task, and write `scale.json`.

    At scale s the policy acts with theta_k + s (theta_T - theta_k), theta_k being its parameters right after the task
    and theta_T those in the end, under the strategy as it is in the end. Success is measured on the task, and on the
    one that was learned last, which scale 0 has not seen.
    """
    options = subject.options
    file = ResultFile(subject.folder / "scale.json", {"episodes": options.episodes, "scales": options.scales})
    forgotten = forgotten_tasks(subject)
    newest = subject.sequence[-1]
    tasks = [task for task in subject.probed() if task.name in forgotten]
    subject.check([newest])
    for task in tasks:
        file.found(task.name, lambda task=task: _sweep(subject, task, newest))  # type: ignore[misc]


def _sweep(subject: Subject, task: Task, newest: Task) -> dict[str, Any]:
    options = subject.options
    end = subject.end()
    path = WeightPath(subject.after(task).policy, end.policy)
    own, last = [], []
    with progress_bar(f"scaling what came after {task.name}", 2 * len(options.scales) * options.episodes) as advance:
        count = Counter(advance)
        for scale in options.scales:
            path.go_to(scale)
            own.append(subject.successes(end, task, count))
            last.append(subject.successes(end, newest, count))
    return {
        "scales": list(options.scales),
        "successes": own,
        "newest": newest.name,
        "newest_successes": last,
        "episodes": options.episodes,
    }


class WeightPath:
    """The straight line between two states of one policy.

    An adapter that the later state alone has is scaled through its second factor, so that its product scales; one that
    the earlier state alone has is in its base weights here. Factors of an adapter that both have move like other
    parameters. Buffers stay those of the later state.

    Args:
        start: The earlier state; adapters that the later one lacks are folded into it.
        policy: The later state, which is moved.
    """

    def __init__(self, start: Policy, policy: Policy) -> None:
        for name in [name for name in start.adapters if name not in policy.adapters]:
            fold(start, name)
        self.policy = policy
        before = {_plain(name): each.detach() for name, each in start.named_parameters()}
        self.ends: dict[str, tuple[Tensor, Tensor]] = {}
        for name, parameter in policy.named_parameters():
            end = parameter.detach().clone()
            origin = before.get(_plain(name))
            if origin is None:
                origin = torch.zeros_like(end) if ".lora_B." in name else end
            if origin.shape == end.shape and not torch.equal(origin.to(end.device), end):
                self.ends[name] = origin.to(end.device), end

    @torch.no_grad()
    def go_to(self, scale: float) -> None:
        """Put the policy at a place of the line: 0 is the earlier state, 1 the later one."""
        parameters = dict(self.policy.named_parameters())
        for name, (start, end) in self.ends.items():
            parameters[name].copy_(end if scale == 1.0 else start + scale * (end - start))


def _plain(name: str) -> str:
    """A parameter's name, whether its layer has an adapter or not."""
    return name.replace(".base_layer.", ".")
