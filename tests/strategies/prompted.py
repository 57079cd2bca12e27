"""What tests of the prompt strategies share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.policies.conftest import CAMERAS
from tests.strategies.conftest import make_policy
from vla_cl.data import Episode, Header, ObservationBatch, WindowDataset, write_demonstrations
from vla_cl.data.schema import image_key
from vla_cl.policies import Policy
from vla_cl.strategies import Strategy
from vla_cl.strategies.coda_prompt import CODAPrompt
from vla_cl.strategies.dualprompt import DualPrompt
from vla_cl.strategies.l2p import L2P
from vla_cl.strategies.modalprompt import ModalPrompt
from vla_cl.strategies.prompting import PromptStrategy, Query
from vla_cl.tasks import Task
from vla_cl.training import TrainingOptions, fit

CLASSES: dict[str, type[PromptStrategy]] = {
    "l2p": L2P,
    "dualprompt": DualPrompt,
    "coda_prompt": CODAPrompt,
    "modalprompt": ModalPrompt,
}
OPTIONS = TrainingOptions(
    steps=3,
    batch_size=8,
    warmup_steps=0,
    learning_rate=1e-2,
    weight_decay=0.1,
    ema=0.5,
    log_every=3,
    checkpoint_every=0,
)


def build(name: str, **options: Any) -> Any:
    """A prompt strategy."""
    strategy = CLASSES[name]
    return strategy(strategy.Options(**options), 0)


def small_policy(**changes: Any) -> Policy:
    """Privileged, of two layers of 32."""
    return make_policy(backbone="lowdim_transformer", **{"width": 32, "layers": 2, "heads": 2, **changes})


def learn(
    policy: Policy,
    strategy: Strategy,
    tasks: Sequence[Task],
    datasets: Sequence[WindowDataset],
    *,
    start: int = 0,
    options: TrainingOptions = OPTIONS,
) -> None:
    """Learn tasks one after another through the real training loop."""
    for stage, (task, data) in enumerate(zip(tasks, datasets, strict=True), start):
        strategy.begin_task(task, policy, data)
        fit(policy, data, strategy, options, seed=0, stage=stage)
        strategy.end_task(task, policy, data)


def acted(policy: Policy, strategy: Strategy, observation: ObservationBatch) -> Tensor:
    """What a strategy lets a policy do."""
    with torch.inference_mode(), strategy.acting_pass(observation):
        return policy.act(observation, list(range(len(observation))))


def random_query(rows: int, width: int, seed: int = 0) -> Query:
    """Unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    text, seen = (torch.randn(rows, size, generator=generator) for size in (384, width))
    return Query(text / text.norm(dim=1, keepdim=True), seen / seen.norm(dim=1, keepdim=True))


def pixel_dataset(folder: Path, name: str, seed: int = 0) -> WindowDataset:
    """Two short episodes as two cameras see them."""
    generator = np.random.default_rng(seed)

    def episode(attempt: int) -> Episode:
        steps = 6
        actions = generator.uniform(-1, 1, (steps, 4)).astype(np.float32)
        images = {
            image_key(camera): generator.integers(0, 256, (steps + 1, 64, 64, 3)).astype(np.uint8) for camera in CAMERAS
        }
        return Episode(
            seed=attempt,
            attempt=attempt,
            actions=actions,
            executed_actions=actions,
            states=generator.normal(size=(steps, 5)),
            rewards=np.zeros(steps, np.float32),
            observations={"agent_pos": generator.uniform(size=(steps + 1, 4)).astype(np.float32), **images},
        )

    header = Header(
        task=name,
        instruction=f"do {name}",
        expert="random",
        env_name="none",
        environment={"backend": "meta_world", "arguments": {}, "horizon": 20},
        observation={"cameras": list(CAMERAS), "image_size": 64, "privileged": False},
        rendering={},
    )
    path = folder / f"{name}.hdf5"
    write_demonstrations(path, header, [episode(attempt) for attempt in range(2)])
    return WindowDataset(path, 8)
