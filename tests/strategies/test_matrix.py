"""Every strategy with every head, a step a task; with `make test-matrix` on every backbone, saved and restored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.policies.conftest import CAMERAS, make_policy
from tests.policies.test_combinations import SMALL
from tests.strategies.conftest import make_dataset
from tests.strategies.short_sequences import NAMES, OPTIONS, SEED, acted, learn, load, save
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import BACKBONES, HEADS, Policy
from vla_cl.strategies import STRATEGIES, build_strategy
from vla_cl.tasks import Task

EVERY_HEAD = [name for name in HEADS if HEADS[name].__module__.startswith("vla_cl.")]
ONE_STEP = replace(OPTIONS, steps=1, warmup_steps=1, checkpoint_every=10, log_every=1)
CHUNK = 8
HEAD_OPTIONS = {
    "act": {"width": 32, "heads": 2, "encoder_layers": 1, "style_layers": 1, "latent": 8},
    "diffusion": {"width": 16, "levels": 2, "sample_steps": 2},
    "fast": {"width": 32, "layers": 1, "heads": 2},
    "flow": {"width": 32, "layers": 1, "steps": 2},
    "gmm": {"width": 32, "layers": 1},
    "regression": {"width": 32, "layers": 1},
    "tokens": {"width": 32, "layers": 1, "heads": 2},
    "vqbet": {"width": 32, "layers": 1, "autoencoder_width": 16, "autoencoder_steps": 5},
}
"""Small ones, where there is a size to choose."""
WITHOUT_LAYERS = {("clare", "diffusion", "resnet_film")}
"""Convolutions alone, where a strategy's modules go beside feed-forward layers."""


@pytest.fixture(scope="session")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[WindowDataset]:
    """Two tasks with images and the simulator's state."""
    folder = tmp_path_factory.mktemp("seen")
    return [
        make_dataset(folder, name, episodes=3, seed=index, cameras=CAMERAS, chunk=CHUNK)
        for index, name in enumerate(NAMES[:2])
    ]


def looked_at(policy: Policy, seen: list[WindowDataset]) -> list[WindowDataset]:
    """The windows with what the policy looks at, as a run gives them to it."""
    cameras = policy.features.cameras
    return [WindowDataset(data.path, CHUNK, cameras=cameras, privileged=not cameras) for data in seen]


def fresh_policy(backbone: str, head: str, data: list[WindowDataset]) -> Policy:
    policy = make_policy(
        backbone=backbone, backbone_options=SMALL[backbone], head=head, head_options=HEAD_OPTIONS.get(head, {})
    )
    policy.prepare(looked_at(policy, data)[0], SEED)
    return policy.eval()


@pytest.mark.parametrize("head", EVERY_HEAD)
@pytest.mark.parametrize("name", list(STRATEGIES))
def test_a_strategy_takes_a_step_of_each_task_with_a_head(
    name: str, head: str, tasks: list[Task], seen: list[WindowDataset]
) -> None:
    policy, strategy = fresh_policy("lowdim_transformer", head, seen), build_strategy(name, {}, SEED)
    strategy.check(policy)
    for stage, data in enumerate(looked_at(policy, seen)):
        learn(policy, strategy, stage, tasks[stage], data, options=ONE_STEP)
    assert np.isfinite(acted(policy, strategy)).all()


@pytest.mark.matrix
@pytest.mark.parametrize("backbone", list(SMALL))
@pytest.mark.parametrize("head", EVERY_HEAD)
@pytest.mark.parametrize("name", list(STRATEGIES))
def test_a_strategy_works_with_a_head_on_a_backbone(
    name: str, head: str, backbone: str, tasks: list[Task], seen: list[WindowDataset], tmp_path: Path
) -> None:
    policy, strategy = fresh_policy(backbone, head, seen), build_strategy(name, {}, SEED)
    try:
        strategy.check(policy)
    except ConfigurationError as refusal:
        takes_no_prompts = strategy.needs.prompts and policy.backbone.prompt_width is None
        assert takes_no_prompts or (name, head, backbone) in WITHOUT_LAYERS, f"nothing else is refused: {refusal}"
        return
    for stage, data in enumerate(looked_at(policy, seen)):
        learn(policy, strategy, stage, tasks[stage], data, options=replace(ONE_STEP, steps=3))
    save(policy, strategy, tmp_path)
    np.testing.assert_array_equal(acted(*load(name, tmp_path)), acted(policy, strategy))


def test_every_backbone_is_in_the_matrix() -> None:
    assert {name for name in BACKBONES if BACKBONES[name].__module__.startswith("vla_cl.")} == SMALL.keys()
