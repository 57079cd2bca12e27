"""Every head on every backbone: it learns from a batch, acts, and comes back from its files as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vla_cl.data import Batch
from vla_cl.policies import BACKBONES, HEADS, Policy
from vla_cl.seeding import torch_generator

SMALL: dict[str, dict[str, object]] = {
    "compact": {"channels": 8, "width": 32, "layers": 1},
    "lowdim": {"width": 32},
    "lowdim_transformer": {"width": 32, "layers": 1},
    "hf_vlm": {"architecture": "tiny_smolvlm", "layers": 1, "prompt_tokens": 16},
    "pretrained_compact": {"input_size": 64, "width": 32, "layers": 1},
    "resnet_film": {"channels": 8, "blocks": 1, "stages": 3, "width": 32},
}


def test_every_built_in_backbone_is_combined() -> None:
    assert {name for name in BACKBONES if BACKBONES[name].__module__.startswith("vla_cl.")} == SMALL.keys()


@pytest.mark.parametrize("head", [name for name in HEADS if HEADS[name].__module__.startswith("vla_cl.")])
@pytest.mark.parametrize("backbone", SMALL)
def test_a_head_works_on_a_backbone(
    backbone: str, head: str, policy_of: Callable[..., Policy], batch_of: Callable[..., Batch], tmp_path: Path
) -> None:
    options = {"autoencoder_steps": 20} if head == "vqbet" else {}
    policy = policy_of(backbone=backbone, backbone_options=SMALL[backbone], head=head, head_options=options)
    batch = batch_of(4)
    policy.head.prepare(policy.normalise_actions(batch_of(64, seed=1).actions), torch.Generator().manual_seed(0))

    optimiser = torch.optim.AdamW([each for each in policy.parameters() if each.requires_grad], lr=1e-3)
    for step in range(2):  # outputs start as the zero function: the first step moves only them
        optimiser.zero_grad()
        losses = policy.loss(batch, torch_generator(step))
        assert losses.shape == (4,) and losses.isfinite().all()
        losses.sum().backward()
        optimiser.step()
    gradients = [each.grad for each in policy.backbone.parameters() if each.grad is not None]
    assert all(each.isfinite().all() for each in gradients) and any(each.any() for each in gradients)

    actions = policy.act(batch.observation, range(4))
    assert actions.shape == (4, 8, 4) and actions.isfinite().all()
    policy.save_pretrained(tmp_path)
    again = Policy.from_pretrained(tmp_path)
    assert torch.equal(again.act(batch.observation, range(4)), actions)
