"""The token heads on the language models of several families, as transformers builds them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.policies.conftest import make_batch, make_policy
from tests.policies.vlms import CONFIGS, FolderOf, saved_once
from vla_cl.policies import Policy
from vla_cl.seeding import torch_generator

HEADS: dict[str, dict[str, Any]] = {"tokens": {"bins": 200}, "fast": {"vocabulary": 250, "scale": 4.0}}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    return saved_once(tmp_path_factory.mktemp("models"))


def make(folder_of: FolderOf, family: str, head: str) -> Policy:
    policy = make_policy(
        backbone="hf_vlm",
        backbone_options={"path": str(folder_of(family)), "prompt_tokens": 24},
        head=head,
        head_options={"decoder": "backbone", **HEADS[head]},
    )
    policy.head.prepare(policy.normalise_actions(make_batch(100, seed=7).actions), torch.Generator())
    return policy


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", CONFIGS)
def test_what_the_language_model_does_is_what_teacher_forcing_finds_likeliest(
    family: str, head: str, folder_of: FolderOf
) -> None:
    policy, observation = make(folder_of, family, head), make_batch(4).observation  # instructions of two lengths
    said: list[torch.Tensor] = []
    decoder = policy.head.decoder
    step = decoder.step
    decoder.step = lambda state, tokens: (said.append(tokens), step(state, tokens))[1]
    policy.act(observation, range(4))
    tokens = torch.stack(said[1:], dim=1)
    with torch.no_grad():
        scores, total = decoder(policy.context(observation), tokens)
    assert (total >= scores.logsumexp(-1) - 1e-4).all()  # the whole vocabulary is more than the action tokens
    margin = scores.amax(-1) - scores.gather(-1, tokens[..., None])[..., 0]
    assert tokens.shape[1] > 3 and len(tokens.unique()) > 1
    ended = (tokens == policy.head.end).cumsum(1) > 1 if head == "fast" else torch.zeros_like(tokens, dtype=torch.bool)
    assert float(margin[~ended].max()) < 1e-3


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", CONFIGS)
def test_a_language_model_learns_a_batch_by_heart_in_bfloat16(family: str, head: str, folder_of: FolderOf) -> None:
    policy, batch = make(folder_of, family, head), make_batch(4)
    optimiser = torch.optim.AdamW([each for each in policy.parameters() if each.requires_grad], lr=3e-3)
    losses = []
    for _ in range(15):
        with torch.autocast("cpu", torch.bfloat16):
            loss = policy.loss(batch, torch_generator(0)).mean()
        assert loss.dtype == torch.float32
        optimiser.zero_grad()
        loss.backward()
        assert all(each.grad.isfinite().all() for each in policy.parameters() if each.grad is not None)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert policy.act(batch.observation, range(4)).isfinite().all()
