"""A small demonstration file with images, and a small policy that sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.strategies.conftest import ACTION_DIM, CHUNK
from vla_cl.data import Episode, Header, Statistics, WindowDataset, write_demonstrations
from vla_cl.policies import Policy, PolicyConfig, PolicyFeatures, build_policy

CAMERAS, SIZE = ("front", "hand"), 64


def make_pixel_dataset(folder: Path, name: str, *, episodes: int = 2, steps: int = 8, seed: int = 0) -> WindowDataset:
    """Episodes of random images and actions."""
    generator = np.random.default_rng(seed)

    def episode(attempt: int) -> Episode:
        actions = generator.uniform(-1, 1, (steps, ACTION_DIM)).astype(np.float32)
        images = {
            f"{camera}_image": generator.integers(0, 256, (steps + 1, SIZE, SIZE, 3), dtype=np.uint8)
            for camera in CAMERAS
        }
        return Episode(
            seed=attempt,
            attempt=attempt,
            actions=actions,
            executed_actions=actions,
            states=generator.normal(size=(steps, 5)),
            rewards=np.zeros(steps, np.float32),
            observations={"agent_pos": generator.uniform(size=(steps + 1, ACTION_DIM)).astype(np.float32), **images},
        )

    header = Header(
        task=name,
        instruction=f"do {name}",
        expert="random",
        env_name="none",
        environment={"backend": "meta_world", "arguments": {}, "horizon": 20},
        observation={"cameras": list(CAMERAS), "image_size": SIZE, "privileged": False},
        rendering={},
    )
    path = folder / f"{name}.hdf5"
    write_demonstrations(path, header, [episode(attempt) for attempt in range(episodes)])
    return WindowDataset(path, CHUNK)


def make_pixel_policy(head: str = "regression") -> Policy:
    """The compact policy, with the small instruction encoder."""
    config = PolicyConfig(
        backbone_options={"instruction_encoder": "learned"}, head=head, chunk=CHUNK, execute=CHUNK, image_size=SIZE
    )
    features = PolicyFeatures(action_dim=ACTION_DIM, agent_pos_dim=ACTION_DIM, cameras=CAMERAS, image_size=SIZE)
    policy = build_policy(config, features, 0)
    ranges = {
        "action": ((-1.0,) * ACTION_DIM, (1.0,) * ACTION_DIM),
        "agent_pos": ((0.0,) * ACTION_DIM, (1.0,) * ACTION_DIM),
    }
    policy.set_statistics(Statistics.from_ranges(ranges))
    return policy
