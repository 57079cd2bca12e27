"""Small policies and batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vla_cl.data import Batch, ObservationBatch, Statistics
from vla_cl.policies import Policy, PolicyConfig, PolicyFeatures, build_policy

CAMERAS = ("corner2", "gripperPOV")
RANGES = {
    "action": ((-1.0,) * 4, (1.0,) * 4),
    "agent_pos": ((-0.3, 0.4, 0.0, 0.0), (0.3, 0.9, 0.35, 1.0)),
    "environment_state": ((-1.0,) * 39, (1.0,) * 39),
}


def make_policy(seed: int = 0, **changes: Any) -> Policy:
    """A policy from pixels, or a privileged one for the `lowdim` backbones, its normalisation frozen."""
    privileged = str(changes.get("backbone")).startswith("lowdim")
    config = PolicyConfig(**{"pixels": not privileged, "privileged": privileged, "execute": 4, **changes})
    features = PolicyFeatures(
        action_dim=4,
        agent_pos_dim=4,
        cameras=() if privileged else tuple(config.cameras or CAMERAS),
        image_size=config.image_size,
        environment_state_dim=39 if privileged else 0,
    )
    policy = build_policy(config, features, seed)
    policy.set_statistics(
        Statistics.from_ranges({name: RANGES[name] for name in RANGES if privileged or name[0] == "a"})
    )
    return policy


def make_batch(size: int = 6, seed: int = 0, chunk: int = 8, instruction: str | None = None) -> Batch:
    """Random windows with everything that any policy looks at."""
    generator = torch.Generator().manual_seed(seed)
    texts = (instruction,) * size if instruction else ("close the window", "turn the faucet") * (size // 2 + 1)
    images = (torch.randint(0, 256, (size, 64, 64, 3), generator=generator, dtype=torch.uint8) for _ in CAMERAS)
    observation = ObservationBatch(
        instruction=texts[:size],
        agent_pos=torch.rand(size, 4, generator=generator),
        pixels=dict(zip(CAMERAS, images, strict=True)),
        environment_state=torch.rand(size, 39, generator=generator),
    )
    actions = torch.rand(size, chunk, 4, generator=generator) * 2 - 1
    return Batch(observation, actions, torch.zeros(size, chunk, dtype=torch.bool))


@pytest.fixture
def policy_of() -> Callable[..., Policy]:
    return make_policy


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    return make_batch
