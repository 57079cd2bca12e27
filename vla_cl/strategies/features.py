"""What strategies that must tell tasks apart without a task id look at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_cl.data import ObservationBatch, WindowDataset
from vla_cl.policies import Policy
from vla_cl.policies.adapters import mixture
from vla_cl.policies.instruction import build_instruction_encoder, resolve_instruction_encoder
from vla_cl.policies.soft_prompts import prompted

CHUNK = 256
"""Windows that go through a policy at once where a whole task does."""


def text_features(instructions: Sequence[str], device: torch.device) -> Tensor:
    """Unit vectors (B, 384) of instructions, by a frozen sentence encoder that no policy has to bring along.

    Raises:
        ConfigurationError: The sentence encoder is not installed.
    """
    encoder = build_instruction_encoder(resolve_instruction_encoder("minilm"))
    return F.normalize(encoder(instructions, device).float(), dim=1)


@torch.no_grad()
def observation_features(policy: Policy, observation: ObservationBatch) -> Tensor:
    """Unit vectors (B, D) of what a policy's base weights, without adapters or prompts, make of observations: the mean
    of the context's tokens. They stay what they are as long as the base weights do.
    """
    with mixture(policy, {}), prompted(policy, None):
        return F.normalize(policy.context(observation).pooled().float(), dim=1)


@torch.no_grad()
def mean_features(policy: Policy, data: WindowDataset, windows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A task's mean text features (384,) and observation features (D,) over some windows, not scaled again."""
    device = next(policy.parameters()).device
    texts, seen = [], []
    for start in range(0, len(windows), CHUNK):
        observation = data.batch(list(windows[start : start + CHUNK])).observation.to(device)
        texts.append(text_features(observation.instruction, device))
        seen.append(observation_features(policy, observation))
    return torch.cat(texts).mean(dim=0), torch.cat(seen).mean(dim=0)
