"""Every preset is a policy that trains and acts, with its own recipe; what fetches weights is given a small model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.policies.conftest import RANGES
from tests.policies.vlms import save_vlm
from vla_cl.config import ExperimentConfig, compose, policy_names
from vla_cl.data import Batch, ObservationBatch, Statistics
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy, PolicyFeatures, build_policy, check_policy
from vla_cl.seeding import torch_generator

PRESETS = tuple(name for name in policy_names() if name not in ("compact", "lowdim", "lowdim_transformer"))
FAMILIES = {"smolvla": "smolvlm", "pi0": "paligemma", "openvla": "paligemma", "openvla_oft": "paligemma"}
"""Presets whose weights come from the hub, and the family of the model that stands in for them."""

PUBLISHED = {
    "smolvla": {"chunk": 50, "layers": 16, "learning_rate": 1e-4, "clip": 10.0},
    "pi0": {"chunk": 50, "learning_rate": 2.5e-5, "batch_size": 32},
    "openvla": {"chunk": 1, "bins": 256, "rank": 32, "alpha": 16, "learning_rate": 5e-4, "batch_size": 16},
    "openvla_oft": {"chunk": 8, "execute": 8, "rank": 32, "learning_rate": 5e-4},
    "diffusion_policy": {"chunk": 16, "execute": 8, "history": 2, "lookback": 1, "train_steps": 100, "ema_power": 0.75},
    "act": {"chunk": 100, "temporal_ensemble": 0.01, "latent": 32, "kl_weight": 10, "learning_rate": 1e-5},
    "bc_transformer": {"history": 10, "modes": 5, "act_std": "learned"},
    "vqbet": {"groups": 2, "codes": 16, "dim": 256, "layers": 8},
}


def composed(name: str) -> ExperimentConfig:
    return compose(["suite=mw3", f"policy={name}"])[0]


def small(name: str, root: Path) -> Policy:
    """The preset's policy; a small model, of which two layers are kept, in the place of a large one."""
    config = composed(name).policy
    if name in FAMILIES:
        folder = save_vlm(root / name, FAMILIES[name])
        changes = {"path": str(folder), "gradient_checkpointing": False, "layers": 2, "prompt_tokens": 96}
        config = replace(config, backbone_options={**config.backbone_options, **changes})
        if name == "openvla":
            config = replace(config, head_options={**config.head_options, "bins": 32})
    if config.backbone == "resnet_film":
        config = replace(config, backbone_options={"channels": 8})
    features = PolicyFeatures(4, 4, ("corner2", "gripperPOV"), config.image_size, history=config.history)
    policy = build_policy(config, features, seed=0)
    policy.set_statistics(Statistics.from_ranges({key: RANGES[key] for key in ("action", "agent_pos")}))
    actions = torch.rand(64, config.chunk, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    policy.head.prepare(policy.normalise_actions(actions.cumsum(1) / config.chunk), torch.Generator().manual_seed(0))
    return policy


def windows(policy: Policy, rows: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(1)

    def moment() -> ObservationBatch:
        size = (rows, policy.features.image_size, policy.features.image_size, 3)
        images = (torch.randint(0, 256, size, generator=generator, dtype=torch.uint8) for _ in policy.features.cameras)
        seen = dict(zip(policy.features.cameras, images, strict=True))
        return ObservationBatch(("open the door",) * rows, torch.rand(rows, 4, generator=generator), seen)

    *past, present = (moment() for _ in range(policy.features.history))
    chunk = policy.config.chunk
    actions = torch.rand(rows, chunk, 4, generator=generator) * 2 - 1
    return Batch(replace(present, past=tuple(past)), actions, torch.zeros(rows, chunk, dtype=torch.bool))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_takes_a_step_and_acts(name: str, tmp_path: Path) -> None:
    policy = small(name, tmp_path)
    batch = windows(policy)
    losses = policy.loss(batch, torch_generator(0))
    assert losses.shape == (2,) and losses.isfinite().all()
    losses.mean().backward()
    trained = [each for each in policy.parameters() if each.requires_grad]
    assert trained and all(each.grad.isfinite().all() for each in trained if each.grad is not None)
    actions = policy.act(batch.observation, [0, 1])
    assert actions.shape == (2, policy.config.chunk, 4) and actions.isfinite().all() and actions.abs().max() <= 1


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_a_recipe_of_its_own(name: str) -> None:
    config, default = composed(name), compose(["suite=mw3", "policy=compact"])[0]
    assert config.policy.name == name
    assert config.training != default.training


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_says_what_its_paper_says(name: str) -> None:
    config = composed(name)
    said = {**vars(config.training), **vars(config.policy)}
    said |= {**config.policy.backbone_options, **config.policy.head_options, **config.policy.adapter}
    assert {key: said[key] for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_parts_are_found_to_fit_without_weights(name: str, tmp_path: Path) -> None:
    config = composed(name).policy
    if name in FAMILIES:
        folder = save_vlm(tmp_path, FAMILIES[name])
        for weights in folder.glob("*.safetensors"):
            weights.write_bytes(b"")  # not looked into
        changes = {"path": str(folder), "layers": 2, "prompt_tokens": 96}
        config = replace(config, backbone_options={**config.backbone_options, **changes})
    check_policy(replace(config, head_options={**config.head_options, "bins": 32}) if name == "openvla" else config)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["policy=compact", "policy.head_options.network=expert"], "use backbone hf_vlm"),
        (["policy=compact", "policy.head=regression", "policy.head_options.network=decoder"], "hf_vlm"),
        (["policy=lowdim", "policy.head=tokens", "policy.head_options.decoder=backbone"], "hf_vlm"),
        (["policy=tiny_vla", "policy.history=3"], "sees one moment; set policy.history=1"),
        (["policy=tiny_vla", "policy.backbone_options.proprioception=context"], "proprioception"),
        (["policy=lowdim", "policy.privileged=false"], "set privileged=true"),
    ],
)
def test_parts_that_mean_nothing_together_are_refused_with_the_reason(overrides: list[str], reason: str) -> None:
    (config,) = compose(["suite=mw3", *overrides])
    with pytest.raises(ConfigurationError, match=reason) as caught:
        check_policy(config.policy)
    assert "\n" not in str(caught.value)
