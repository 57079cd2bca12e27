"""Knowledge in slots that texts tell apart: what is alike goes into one (dynamic knowledge organisation of DISCO)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vla_cl.data import WindowDataset
from vla_cl.strategies.averaging import weighted_mean
from vla_cl.strategies.features import text_features


@dataclass(frozen=True)
class Knowledge:
    """What is known in a slot, or arrives at one: where it belongs, by its identity.

    Args:
        slot: Name of the slot, which is that of its adapter.
        text: Mean text features (D,).
        windows: How many it was learned from.
    """

    slot: str
    text: Tensor
    windows: int

    def joined(self, other: Knowledge) -> Knowledge:
        """Both in this slot; the text is the mean over all windows."""
        return replace(
            self,
            text=weighted_mean([self.text, other.text], [self.windows, other.windows]),
            windows=self.windows + other.windows,
        )

    def state_dict(self) -> dict[str, Any]:
        """As a checkpoint stores it; the arguments rebuild it."""
        return {"slot": self.slot, "text": self.text, "windows": self.windows}


def organised(arrivals: Sequence[Knowledge], known: Sequence[Knowledge], threshold: float) -> list[Knowledge]:
    """Give each arrival the slot that it belongs to: the known one whose text is most like its own, if cos > threshold;
    else that of the arrival before it that is most like it, by the same measure; else the new one that it names.
    """
    placed: list[Knowledge] = []
    for arrival in arrivals:
        slot = _most_alike(arrival, known, threshold) or _most_alike(arrival, placed, threshold) or arrival
        placed.append(replace(arrival, slot=slot.slot))
    return placed


def _most_alike(arrival: Knowledge, others: Sequence[Knowledge], threshold: float) -> Knowledge | None:
    likeness = [float(F.cosine_similarity(arrival.text, other.text, dim=0)) for other in others]
    best = int(np.argmax(likeness)) if likeness else -1
    return others[best] if likeness and likeness[best] > threshold else None


def activation(texts: Tensor, slots: Tensor, temperature: float) -> Tensor:
    """w = softmax(cos(text, slot) / temperature) (B, n), of texts (B, D) and slots' texts (n, D)."""
    return torch.softmax(F.normalize(texts, dim=1) @ F.normalize(slots, dim=1).T / temperature, dim=1)


def mean_text(data: WindowDataset) -> Tensor:
    """The mean text features (384,) of a dataset's windows."""
    firsts = np.cumsum(data.episode_lengths) - data.episode_lengths
    texts = text_features(data.observations(firsts).instruction, torch.device("cpu"))
    lengths = torch.from_numpy(data.episode_lengths).to(texts)
    return (texts * lengths[:, None]).sum(dim=0) / lengths.sum()
