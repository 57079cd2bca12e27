"""Stop when a number is not finite, before it is kept, and say which batch it came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vla_cl.data import Batch, WindowDataset
from vla_cl.errors import SimulationError
from vla_cl.training.checkpoint import IntervalCheckpoints

_FEW = 8


class NotFiniteError(Exception):
    """A loss, a gradient or a weight that is not finite.

    Args:
        step: The first step at which it was so, from 0.
        what: "the loss", "the gradient norm" or "a weight".
        value: What it was.
    """

    def __init__(self, step: int, what: str, value: float) -> None:
        super().__init__(step, what, value)
        self.step, self.what, self.value = step, what, value


class Watch:
    """Losses and gradient norms that nobody has looked at yet: on a GPU, looking at each would make every step wait.

    Args:
        device: Where the numbers are. On a CPU each is looked at when it is noted.
    """

    def __init__(self, device: torch.device) -> None:
        self._at_once = device.type == "cpu"
        self._steps: list[int] = []
        self._numbers: list[Tensor] = []

    def note(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Remember one step's loss and gradient norm, before the optimiser's step.

        Raises:
            NotFiniteError: On a CPU, if either is not finite: the weights are those of the step before.
        """
        self._steps.append(step)
        self._numbers.append(torch.stack([loss.detach().float(), norm.detach().float()]))
        if self._at_once:
            self.check()

    def check(self) -> None:
        """Look at everything noted since the last look.

        Raises:
            NotFiniteError: Of the first number that is not finite.
        """
        if not self._steps:
            return
        steps, numbers = self._steps, torch.stack(self._numbers).tolist()
        self._steps, self._numbers = [], []
        for step, (loss, norm) in zip(steps, numbers, strict=True):
            for what, value in (("the loss", loss), ("the gradient norm", norm)):
                if not math.isfinite(value):
                    raise NotFiniteError(step, what, value)


def check_weights(step: int, parameters: Mapping[str, nn.Parameter]) -> None:
    """Look at all the weights, as they are after `step`: an update can overflow although its gradient did not.

    Raises:
        NotFiniteError: One is not finite.
    """
    if not parameters:
        return
    sums = torch.stack([parameter.detach().float().abs().amax() for parameter in parameters.values()])
    if not bool(sums.isfinite().all()):
        raise NotFiniteError(step, "a weight", float(sums[~sums.isfinite()][0]))


@contextmanager
def explained(read: Callable[[int], Batch], stage: int, checkpoints: IntervalCheckpoints | None) -> Iterator[None]:
    """Turn a `NotFiniteError` into one line that says what happened, and the way out.

    Args:
        read: Gives the batch of a step, before the strategy mixes others in.
        stage: Index of the task in the sequence.
        checkpoints: Of the stage.

    Raises:
        SimulationError: In place of the error.
    """
    try:
        yield
    except NotFiniteError as error:
        kept = checkpoints.step if checkpoints else None
        raise SimulationError(_story(error, read(error.step), stage, kept)) from None


def _story(error: NotFiniteError, batch: Batch, stage: int, kept: int | None) -> str:
    parts = [(data, np.unique(indices)) for data, indices in batch.origin]
    tasks = " and ".join(dict.fromkeys(data.task for data, _ in parts))
    culprits = [(data, what, window) for data, windows in parts for what, window in _not_finite(data, windows)]
    if culprits:
        data, what, window = culprits[0]
        position = int(data.window_episodes[window])
        first = int(np.searchsorted(data.window_episodes, position))
        more = f", and {len(culprits) - 1} more of its windows" if len(culprits) > 1 else ""
        reason = (
            f"{what} of window {window} (episode {data.episodes[position]}, step {window - first}){more} "
            "is not finite in the file: repair that episode, or leave it out"
        )
    else:
        reason = "all numbers of these windows are finite: lower training.learning_rate or training.clip"
    checkpoint = f"the checkpoint of step {kept} is kept" if kept is not None else "no checkpoint of this stage exists"
    return (
        f"{error.what} is {error.value} at step {error.step + 1} of stage {stage} ({tasks}), whose batch is "
        f"{' and '.join(_windows(data, windows) for data, windows in parts)}; {reason}; {checkpoint}"
    )


def _windows(data: WindowDataset, windows: NDArray[np.int64]) -> str:
    episodes = data.episodes[np.unique(data.window_episodes[windows])]
    return f"windows {_listed(windows)} (episodes {_listed(episodes)}) of {data.path}"


def _not_finite(data: WindowDataset, windows: NDArray[np.int64]) -> list[tuple[str, int]]:
    """What of which window is not finite."""
    batch = data.batch(windows)
    observation = batch.observation
    numbers: dict[str, Tensor] = {"an action": batch.actions, "agent_pos": observation.agent_pos}
    if observation.environment_state is not None:
        numbers["environment_state"] = observation.environment_state
    numbers |= {f"feature {name!r}": each for name, each in observation.features.items() if each.is_floating_point()}
    return [
        (what, int(window))
        for what, each in numbers.items()
        for window in windows[~each.flatten(1).isfinite().all(dim=1).numpy()]
    ]


def _listed(numbers: Iterable[int]) -> str:
    known = [str(number) for number in numbers]
    return ", ".join(known[:_FEW]) + (f" and {len(known) - _FEW} more" if len(known) > _FEW else "")
