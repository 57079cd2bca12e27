"""An episodic memory that acts: what was done where it looked like this."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_cl.data import ObservationBatch
from vla_cl.policies import Policy
from vla_cl.strategies.features import text_features

PLACES = 8
"""Height and width to which an image is averaged for a key."""
_SMALLEST = 1e-12
_ASKED = 512
_COSINE = 2**-0.5  # makes the squared distance of two unit vectors 1 - cosine


class EpisodicMemory:
    """Keys of observations and the chunks of actions that followed, by task; all on the CPU.

    Attributes:
        tasks: Of each task, by its name: "keys" (M, K), "chunks" (M, chunk, A) of raw actions, and "scale" (), the
            median distance of a key to the nearest of another episode, by which distances are judged.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, dict[str, Tensor]] = {}
        self._recalled: dict[str, Tensor] = {}  # all tasks' together, on the device that asked last

    def __len__(self) -> int:
        return sum(len(each["keys"]) for each in self.tasks.values())

    def store(self, task: str, keys: Tensor, chunks: Tensor, episodes: Tensor) -> None:
        """Keep M keys and chunks of a task, in place of what was kept of it before; `episodes` (M,) they are from."""
        keys, chunks = keys.cpu().float(), chunks.cpu().float()
        self.tasks[task] = {"keys": keys, "chunks": chunks, "scale": typical_distance(keys, episodes.cpu())}
        self._recalled.clear()

    def recall(self, keys: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
        """What the memory would do: the mean of the nearest neighbours' chunks, weighed by 1 / distance^2.

        Args:
            keys: (B, K).
            neighbours: How many.

        Returns:
            Raw actions (B, chunk, A), exactly a stored chunk at a stored key, and the distance (B,) of the nearest
            neighbour in units of its task's scale.
        """
        known = self._on(keys.device)
        distances = pairwise_distances(keys, known["keys"])
        nearest, rows = distances.topk(min(neighbours, distances.shape[1]), largest=False)
        weights = 1 / nearest.square().clamp(min=_SMALLEST)
        weights = weights / weights.sum(dim=1, keepdim=True)
        chunks = (weights[:, :, None, None] * known["chunks"][rows]).sum(dim=1)
        return chunks, nearest[:, 0] / known["scales"][rows[:, 0]]

    def _on(self, device: torch.device) -> dict[str, Tensor]:
        if not self._recalled or self._recalled["keys"].device != device:
            tasks = list(self.tasks.values())
            self._recalled = {name: torch.cat([each[name] for each in tasks]).to(device) for name in ("keys", "chunks")}
            scales = [each["scale"].expand(len(each["keys"])) for each in tasks]
            self._recalled["scales"] = torch.cat(scales).to(device)
        return self._recalled

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """All that is kept."""
        return {task: dict(each) for task, each in self.tasks.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restore `state_dict()`."""
        self.tasks = {task: {name: each.cpu() for name, each in kept.items()} for task, kept in state.items()}
        self._recalled.clear()


def pairwise_distances(first: Tensor, second: Tensor) -> Tensor:
    """Euclidean distances (B, M) of vectors (B, K) and (M, K): exactly 0 for equal ones, whoever shares the batch."""
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def typical_distance(keys: Tensor, episodes: Tensor) -> Tensor:
    """The median (), over keys (M, K), of the distance to the nearest key of another episode; where there is one
    episode, of another moment; 1 where keys are all the same. At most 512 keys, evenly spaced, are asked.
    """
    asked = torch.linspace(0, len(keys) - 1, min(len(keys), _ASKED)).round().long()
    same = episodes[asked, None] == episodes[None]
    if bool(same.all()):
        same = asked[:, None] == torch.arange(len(keys))[None]
    median = pairwise_distances(keys[asked], keys).masked_fill(same, torch.inf).min(dim=1).values.median()
    return median if bool(median.isfinite()) and float(median) > 0 else torch.ones(())


@torch.no_grad()
def memory_keys(policy: Policy, observation: ObservationBatch) -> Tensor:
    """Keys (B, K) of observations, which nothing that is trained can change.

    The present moment alone, in blocks: the sentence encoder's unit vector of the instruction, proprioception and the
    simulator's state as the policy normalises them, each image averaged to 8 x 8. A block is scaled by its size, so
    that a squared distance is the sum of the blocks' mean squared differences (of texts: 1 - cosine).
    """
    normaliser, state = policy.normaliser, observation.environment_state
    device = observation.agent_pos.device
    blocks = [text_features(observation.instruction, device) * _COSINE]
    blocks.append(_per_number(normaliser.agent_pos.normalise(observation.agent_pos)))
    if state is not None and normaliser.environment_state is not None:
        blocks.append(_per_number(normaliser.environment_state.normalise(state)))
    for images in observation.pixels.values():
        small = F.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float(), PLACES)
        blocks.append(_per_number(small.flatten(1) / 127.5 - 1))
    return torch.cat(blocks, dim=1).float()


def _per_number(block: Tensor) -> Tensor:
    return block / math.sqrt(block.shape[1])
