"""The ResNet with FiLM against its formulas, and what it depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_cl.data import Batch
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.policies import Policy
from vla_cl.policies.options import build_options
from vla_cl.policies.resnet_film import FiLM, FiLMBlock, ResNetEncoder, ResNetFiLMOptions, SpatialSoftmax, group_norm

Policies, Batches = Callable[..., Policy], Callable[..., Batch]
SMALL = {"channels": 8, "blocks": 1, "stages": 3, "keypoints": 8, "width": 32, "instruction_encoder": "learned"}


def make_policy(policy_of: Policies, **options: object) -> Policy:
    policy = policy_of(backbone="resnet_film", backbone_options={**SMALL, **options}, head="regression")
    for parameter in policy.parameters():
        if parameter.requires_grad and not parameter.detach().any():
            nn.init.normal_(parameter, std=0.1)  # what starts as zero hides mistakes
    return policy


def test_film_is_its_formula_and_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    film, features, condition = FiLM(5, 3), torch.randn(2, 3, 4, 4), torch.randn(2, 5)
    assert torch.equal(film(features, condition), features)
    nn.init.normal_(film.modulation.weight)
    told = condition @ film.modulation.weight.T
    for row in range(2):
        for channel in range(3):
            gamma, beta = told[row, channel], told[row, 3 + channel]
            expected = (1 + gamma) * features[row, channel] + beta
            assert torch.allclose(film(features, condition)[row, channel], expected, atol=1e-6)


@pytest.mark.parametrize("inputs, outputs, stride", [(32, 32, 1), (32, 64, 2)])
def test_a_block_is_a_basic_block_whose_second_norm_is_modulated(inputs: int, outputs: int, stride: int) -> None:
    torch.manual_seed(0)
    block, features, condition = FiLMBlock(inputs, outputs, stride, 5), torch.randn(2, inputs, 8, 8), torch.randn(2, 5)
    nn.init.normal_(block.film.modulation.weight)
    gamma, beta = (condition @ block.film.modulation.weight.T).split(outputs, dim=1)
    groups = outputs // 16
    hidden = F.group_norm(F.conv2d(features, block.first.weight, stride=stride, padding=1), groups).relu()
    hidden = F.group_norm(F.conv2d(hidden, block.second.weight, padding=1), groups)
    hidden = hidden + torch.einsum("bc,bchw->bchw", gamma, hidden) + beta[..., None, None]
    skipped = features
    if stride > 1:
        skipped = F.group_norm(F.conv2d(features, block.skip[0].weight, stride=2), groups)  # type: ignore[index]
    assert torch.allclose(block(features, condition), (skipped + hidden).relu(), atol=1e-5)


def test_the_defaults_are_resnet_18_with_film() -> None:
    encoder = ResNetEncoder(ResNetFiLMOptions(pooling="mean"), condition_dim=7)
    convolutions = [each for each in encoder.modules() if isinstance(each, nn.Conv2d)]
    # 11,689,512 of ResNet-18 less its classifier (513,000); batch and group normalisation have as many
    film = sum(each.numel() for name, each in encoder.named_parameters() if "film" in name)
    rest = sum(each.numel() for each in encoder.parameters()) - film - 512 * 128 - 128
    assert rest == 11_689_512 - 513_000
    assert film == sum(2 * 2 * channels * (7 + 1) for channels in (64, 128, 256, 512))
    assert len(convolutions) == 20  # 17 of the 18 layers, and three on skips


@pytest.mark.parametrize("channels, groups", [(64, 4), (16, 1), (8, 1), (40, 2), (100, 2)])
def test_groups_divide_channels(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


def test_the_spatial_softmax_finds_a_peak_and_is_the_centre_without_one() -> None:
    pool = SpatialSoftmax(2, 2)
    with torch.no_grad():
        pool.maps.weight.copy_(torch.eye(2)[:, :, None, None])
        pool.maps.bias.zero_()
    features = torch.zeros(1, 2, 5, 9)
    features[0, 0, 1, 6] = 100.0
    assert torch.allclose(pool(features), torch.tensor([[-0.5, 0.0, 0.5, 0.0]]), atol=1e-6)


@pytest.mark.parametrize("pooling", ["spatial_softmax", "mean"])
@pytest.mark.parametrize("shared", [False, True])
def test_it_has_one_token_a_camera_and_two_more(
    policy_of: Policies, batch_of: Batches, pooling: str, shared: bool
) -> None:
    policy = make_policy(policy_of, pooling=pooling, shared=shared)
    context = policy.context(batch_of(3).observation)
    assert context.tokens.shape == (3, 4, 32) and policy.backbone.shape.tokens == 4
    assert len(policy.backbone.encoders) == (1 if shared else 2)


def test_a_camera_changes_its_own_token_alone_and_the_instruction_changes_every_cameras(
    policy_of: Policies, batch_of: Batches
) -> None:
    policy, observation = make_policy(policy_of), batch_of(2, instruction="close the window").observation
    before = policy.context(observation).tokens

    def changed(**changes: object) -> list[bool]:
        tokens = policy.context(dataclasses.replace(observation, **changes)).tokens
        return [not torch.allclose(*pair, atol=1e-5) for pair in zip(tokens.unbind(1), before.unbind(1), strict=True)]

    for index, camera in enumerate(observation.pixels):
        pixels = {**observation.pixels, camera: observation.pixels[camera] // 3}
        assert changed(pixels=pixels) == [False, False, index == 0, index == 1]
    assert changed(instruction=("open the door",) * 2) == [True, False, True, True]
    assert changed(agent_pos=observation.agent_pos + 0.1) == [False, True, False, False]


def test_a_shared_encoder_sees_each_camera_as_it_would_alone(policy_of: Policies, batch_of: Batches) -> None:
    policy, observation = make_policy(policy_of, shared=True), batch_of(3).observation
    backbone = policy.backbone
    instruction = backbone.instruction(observation.instruction, torch.device("cpu"))
    seen: list[Tensor] = [backbone.encoders[0](images, instruction) for images in observation.pixels.values()]
    expected = backbone.norm(torch.stack(seen, dim=1) + backbone.kinds[2:])
    assert torch.allclose(policy.context(observation).tokens[:, 2:], expected, atol=1e-5)


def test_a_row_does_not_depend_on_the_others_or_on_the_mode(policy_of: Policies, batch_of: Batches) -> None:
    policy, observation = make_policy(policy_of), batch_of(5).observation
    together = policy.train().context(observation).tokens[2:3]
    assert torch.allclose(policy.eval().context(observation[2:3]).tokens, together, atol=1e-5)


@pytest.mark.parametrize("pooling", ["spatial_softmax", "mean"])
def test_every_parameter_learns_and_bfloat16_autocast_is_near(
    policy_of: Policies, batch_of: Batches, pooling: str
) -> None:
    policy, batch = make_policy(policy_of, pooling=pooling), batch_of(4)
    full = policy.loss(batch, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        loss = policy.loss(batch, torch.Generator().manual_seed(0))
    assert loss.dtype == torch.float32 and torch.allclose(loss, full, rtol=0.1, atol=0.05)
    loss.sum().backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_it_finds_a_thing_in_an_image(policy_of: Policies, batch_of: Batches) -> None:
    policy = make_policy(policy_of)
    encoder, generator = policy.backbone.encoders[0], torch.Generator().manual_seed(0)
    reader = nn.Linear(32, 2)
    optimiser = torch.optim.Adam([*encoder.parameters(), *reader.parameters()], lr=2e-3)
    condition = torch.zeros(32, 128)

    def scenes() -> tuple[Tensor, Tensor]:
        places = torch.randint(4, 56, (32, 2), generator=generator)
        images = torch.full((32, 64, 64, 3), 90, dtype=torch.uint8)
        for image, (row, column) in zip(images, places.tolist(), strict=True):
            image[row : row + 6, column : column + 6] = torch.tensor([250, 40, 40], dtype=torch.uint8)
        return images, places / 30 - 1

    losses = []
    for _ in range(120):
        images, places = scenes()
        loss = (reader(encoder(images, condition)) - places).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) / 10 < 0.02  # a guess of the mean has 0.25


def test_it_is_saved_and_restored(policy_of: Policies, batch_of: Batches, tmp_path: Path) -> None:
    policy, observation = make_policy(policy_of), batch_of(2).observation
    policy.save_pretrained(tmp_path)
    assert torch.equal(Policy.from_pretrained(tmp_path).context(observation).tokens, policy.context(observation).tokens)


def test_unknown_options_and_bad_values_are_told_in_one_line(policy_of: Policies) -> None:
    kind = "backbone 'resnet_film'"
    with pytest.raises(UnknownNameError, match="did you mean 'spatial_softmax'"):
        build_options(kind, ResNetFiLMOptions, {"pooling": "spatial_softmx"})
    with pytest.raises(ConfigurationError, match="blocks of backbone 'resnet_film' must be at least 1, got 0"):
        build_options(kind, ResNetFiLMOptions, {"blocks": 0})
    with pytest.raises(ConfigurationError, match="feature map of one place"):
        make_policy(policy_of, stages=5)
