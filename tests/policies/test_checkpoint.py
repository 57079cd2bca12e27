"""A policy on disk: exact, complete, and recognised when it is neither."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.policies.adapted import BACKBONES, adapt, backbone_policy
from vla_cl.data import Batch
from vla_cl.errors import CheckpointError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import add_adapter, fold, freeze_adapter, freeze_base, remove_adapter, set_active

PolicyOf = Callable[..., Policy]


@pytest.fixture
def saved(policy_of: PolicyOf, tmp_path: Path) -> Path:
    policy_of().save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


@pytest.mark.parametrize("backbone", ["compact", "lowdim"])
def test_a_saved_policy_comes_back_bit_for_bit(
    backbone: str, policy_of: PolicyOf, batch_of: Callable[..., Batch], tmp_path: Path
) -> None:
    policy = policy_of(seed=3, backbone=backbone, normalisation="quantile")
    policy.save_pretrained(tmp_path)
    loaded = Policy.from_pretrained(tmp_path)
    assert loaded.config == policy.config
    assert loaded.features == policy.features
    assert loaded.statistics == policy.statistics
    state = policy.state_dict()
    assert state.keys() == loaded.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    observation = batch_of(3).observation
    assert torch.equal(loaded.act(observation, [0, 1, 2]), policy.act(observation, [0, 1, 2]))


def test_the_folder_holds_json_and_safetensors_and_says_what_it_is(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((saved / "config.json").read_text())
    assert config["format"] == "vla_cl.policy"
    assert config["vla_cl_version"] == "0.1.0"
    assert config["features"]["cameras"] == ["corner2", "gripperPOV"]
    assert config["policy"]["backbone_options"]["instruction_encoder"] == "minilm"


def test_the_frozen_sentence_encoder_is_not_saved(
    saved: Path, policy_of: PolicyOf, batch_of: Callable[..., Batch]
) -> None:
    policy = policy_of()
    policy.act(batch_of(1).observation, [0])
    sizes = [tensor.numel() for tensor in load_file(saved / "model.safetensors").values()]
    assert sum(sizes) < 2_000_000
    assert sum(parameter.numel() for parameter in policy.parameters()) < 2_000_000


def test_saving_again_replaces_what_was_there(saved: Path, policy_of: PolicyOf) -> None:
    policy = policy_of(seed=9)
    policy.save_pretrained(saved)
    assert torch.equal(Policy.from_pretrained(saved).head.network.context.weight, policy.head.network.context.weight)
    assert len(list(saved.iterdir())) == 2


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        Policy.from_pretrained(saved)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere holds no policy"):
        Policy.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "lowdim"}, ": it lacks 'backbone."),
        ({"head_options": {"width": 128}}, ": 'head.network.context.weight' has shape (128, 128), not (256, 128)"),
        ({"backbone_options": {"layers": 3}}, ": it has 'backbone.layers.2."),
    ],
)
def test_the_weights_of_another_policy_are_recognised(
    saved: Path, policy_of: PolicyOf, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    policy_of(**changes).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", saved / "model.safetensors")
    with pytest.raises(CheckpointError, match="belongs to another policy") as caught:
        Policy.from_pretrained(saved)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 4, 1000, 0.5, 0.999])
def test_truncated_weights_are_recognised(saved: Path, kept: float) -> None:
    weights = saved / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(CheckpointError, match=r"model.safetensors is truncated or damaged") as caught:
        Policy.from_pretrained(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json is damaged"),
        ('{"model_type": "llama"}', "is not the configuration of a vla_cl policy"),
        ("[]", "config.json is damaged"),
        ('{"format": "vla_cl.policy", "format_version": 1}', "config.json is damaged"),
        ('{"format": "vla_cl.policy", "format_version": 99, "vla_cl_version": "9.9"}', "vla_cl 9.9, which is newer"),
    ],
)
def test_a_damaged_or_foreign_configuration_is_recognised(saved: Path, content: str, message: str) -> None:
    (saved / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        Policy.from_pretrained(saved)


def test_a_part_that_is_not_registered_here_is_named(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["policy"]["backbone"] = "from_a_plugin"
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="cannot be built here: backbone 'from_a_plugin' is not registered"):
        Policy.from_pretrained(saved)


def test_a_write_that_fails_keeps_what_was_there(
    saved: Path, policy_of: PolicyOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(Exception, match="no space left on the disk"):
        policy_of(seed=9).save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


# --- adapters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_policy_that_grew_comes_back_as_it_was(backbone: str, batch_of: Callable[..., Batch], tmp_path: Path) -> None:
    policy = backbone_policy(backbone)
    adapt(policy, "one", 1, rank=2)
    adapt(policy, "two", 2, rank=3, alpha=1.5, targets="linear", head=True)
    adapt(policy, "three", 3, rank=2, targets="attention" if backbone != "lowdim" else "auto")
    freeze_base(policy)
    freeze_adapter(policy, "one")
    policy.head.network.output.bias.requires_grad_(False)
    remove_adapter(policy, "three")
    set_active(policy, ["two"])
    policy.save_pretrained(tmp_path)
    loaded = Policy.from_pretrained(tmp_path)
    assert loaded.adapters == policy.adapters and loaded.active_adapters == ("two",)
    state = policy.state_dict()
    assert state.keys() == loaded.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    trained = {name: each.requires_grad for name, each in policy.named_parameters()}
    assert {name: each.requires_grad for name, each in loaded.named_parameters()} == trained
    assert 0 < sum(trained.values()) < len(trained)
    observation = batch_of(3).observation
    for route in (None, {}, {"one": 1.0}, {"one": 0.5, "two": torch.tensor([0.0, 1.0, 2.0])}):
        assert torch.equal(loaded.act(observation, [0, 1, 2], route), policy.act(observation, [0, 1, 2], route))
    add_adapter(loaded, "three")


def test_adapters_lie_beside_the_weights_as_long_as_they_are_there(policy_of: PolicyOf, tmp_path: Path) -> None:
    policy = policy_of(backbone="lowdim", adapter={"rank": 2})
    add_adapter(policy, "task_1")
    policy.save_pretrained(tmp_path)
    files = ["adapter_config.json", "adapter_model.safetensors"]
    for name in ("default", "task_1"):
        assert sorted(path.name for path in (tmp_path / "adapters" / name).iterdir()) == files
    fold(policy, "default")
    policy.save_pretrained(tmp_path)
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == ["task_1"]
    loaded = Policy.from_pretrained(tmp_path)
    assert loaded.config == policy.config and list(loaded.adapters) == ["task_1"]
    fold(policy, "task_1")
    policy.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert Policy.from_pretrained(tmp_path).adapters == {}


def test_a_checkpoint_is_the_same_bytes_whenever_it_is_written(policy_of: PolicyOf, tmp_path: Path) -> None:
    policy = policy_of(backbone="lowdim", adapter={"rank": 2, "targets": "linear"})
    policy.save_pretrained(tmp_path / "first")
    Policy.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "first", tmp_path / "second")
    )
    assert first == second and len(first) == 4


def test_a_checkpoint_from_before_adapters_is_read(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    for key in ("adapters", "active_adapters", "frozen"):
        del config[key]
    del config["policy"]["adapter"]
    (saved / "config.json").write_text(json.dumps(config))
    loaded = Policy.from_pretrained(saved)
    assert loaded.adapters == {} and all(each.requires_grad for each in loaded.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapters": []}, "config.json is damaged"),
        ({"adapters": {"default": {"rank": "many", "alpha": 1.0, "modules": []}}}, "config.json is damaged"),
        ({"adapters": {"default": {"rank": 2}}}, "config.json is damaged"),
        (
            {"adapters": {"default": {"rank": 0, "alpha": 1.0, "modules": []}}},
            "config.json is damaged .an adapter cannot have rank 0, alpha 1.0 and 0 layers",
        ),
        (
            {"adapters": {}, "active_adapters": []},
            "model.safetensors belongs to another policy .* it lacks 'backbone.mlp",
        ),
        (
            {"adapters": {"default": {"rank": 2, "alpha": 1.0, "modules": ["backbone.nowhere"]}}},
            "cannot be built here: policy 'compact' has no layer 'backbone.nowhere'",
        ),
        ({"active_adapters": ["other"]}, "cannot be built here: adapter 'other' is not registered"),
        ({"frozen": ["backbone.nothing"]}, "config.json freezes 'backbone.nothing', which this policy lacks"),
    ],
)
def test_adapters_that_do_not_fit_the_weights_are_recognised(
    changes: dict[str, object], message: str, policy_of: PolicyOf, tmp_path: Path
) -> None:
    policy_of(backbone="lowdim", adapter={"rank": 2}).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(CheckpointError, match=message) as caught:
        Policy.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
