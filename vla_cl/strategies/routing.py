"""Which task an observation belongs to: what strategies share that choose or weigh adapters without a task id.

All of them look at features that do not change any more (`vla_cl.strategies.features`): a frozen sentence encoder's of
the instruction, and what the policy's base weights make of the observation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vla_cl.data import ObservationBatch, WindowDataset
from vla_cl.policies import Policy
from vla_cl.policies.adapters import Route
from vla_cl.seeding import numpy_generator
from vla_cl.strategies.features import mean_features, observation_features, text_features


@dataclass(frozen=True)
class Anchor:
    """What a task looks like on average.

    Args:
        text: Mean text features (384,).
        seen: Mean observation features (D,).
    """

    text: Tensor
    seen: Tensor

    @staticmethod
    def of(policy: Policy, data: WindowDataset, windows: Sequence[int]) -> Anchor:
        """The anchor of a task, measured on some of its windows."""
        return Anchor(*mean_features(policy, data, windows))

    def state_dict(self) -> dict[str, Tensor]:
        """As a checkpoint stores it."""
        return {"text": self.text, "seen": self.seen}


def anchor_similarities(text: Tensor, seen: Tensor, anchors: Sequence[Anchor]) -> Tensor:
    """(cos(text, anchor's) + cos(seen, anchor's)) / 2, in [-1, 1].

    Args:
        text: (B, 384).
        seen: (B, D).
        anchors: T.

    Returns:
        (B, T).
    """

    def cosines(features: Tensor, means: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack([mean.to(features.device) for mean in means])
        return F.normalize(features, dim=1) @ F.normalize(stacked, dim=1).T

    return (cosines(text, [each.text for each in anchors]) + cosines(seen, [each.seen for each in anchors])) / 2


def similarities(policy: Policy, observation: ObservationBatch, anchors: Sequence[Anchor]) -> Tensor:
    """How similar observations are to each anchor (B, T)."""
    text = text_features(observation.instruction, next(policy.parameters()).device)
    return anchor_similarities(text, observation_features(policy, observation), anchors)


def chosen_route(choice: Sequence[int], adapters: Sequence[str | None]) -> Route:
    """The route on which each row has the adapter of its task alone.

    Args:
        choice: Of each row, the index of its task.
        adapters: Of each task; None where the base acts alone.
    """
    if len(set(choice)) == 1:
        (only,) = {adapters[task] for task in choice}
        return {} if only is None else {only: 1.0}
    route: dict[str, float | Tensor] = {}
    for task in sorted(set(choice)):
        name = adapters[task]
        if name is not None:
            route[name] = torch.tensor([float(adapters[each] == name) for each in choice])
    return route


def some_windows(data: WindowDataset, count: int, *keys: int | str) -> list[int]:
    """Up to so many windows of a dataset, drawn without replacement as the keys say, in ascending order."""
    generator = numpy_generator(*keys)
    return sorted(int(each) for each in generator.permutation(len(data))[:count])


def opening_windows(data: WindowDataset, count: int, *keys: int | str) -> list[int]:
    """Up to so many windows, those first that open an episode: what a router sees that is asked once an episode."""
    generator = numpy_generator(*keys)
    lengths: NDArray[np.int64] = np.asarray(data.episode_lengths)
    openings = generator.permutation(np.cumsum(lengths) - lengths)
    others = generator.permutation(np.setdiff1d(np.arange(len(data)), openings))
    return sorted(int(each) for each in np.concatenate([openings, others])[:count])


def ridge_classifier(features: Tensor, labels: Tensor, classes: int, strength: float) -> Tensor:
    """Least squares on one-hot labels: the W that minimises |X W - Y|^2 + strength |W|^2, in closed form.

    Args:
        features: X, (n, D).
        labels: (n,) int64, in [0, classes).
        classes: C.
        strength: Positive.

    Returns:
        (D, C), float64. The class of x is the largest entry of x W.
    """
    x = features.double()
    y = F.one_hot(labels, classes).double()
    few = len(x) < x.shape[1]  # then W = X^T (X X^T + s I)^-1 Y is the smaller system
    products = x @ x.T if few else x.T @ x
    damped = products + strength * torch.eye(len(products), dtype=x.dtype, device=x.device)
    weights: Tensor = x.T @ torch.linalg.solve(damped, y) if few else torch.linalg.solve(damped, x.T @ y)
    return weights


def anchors_from(state: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Anchor]:
    """Anchors by task, as a checkpoint stored them."""
    return {task: Anchor(each["text"], each["seen"]) for task, each in state.items()}
