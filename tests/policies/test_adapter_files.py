"""Adapters on disk: what peft reads is what we wrote, and the other way round."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.policies.adapted import BACKBONES, adapt, backbone_policy
from tests.policies.conftest import make_batch, make_policy
from vla_cl.errors import CheckpointError, ConfigurationError, UnknownNameError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import adapter_names, adapter_parameters, load_adapter, merge, save_adapter, set_active

SEEDS = [0, 1, 2]
OBSERVATION = make_batch(3).observation


# --- with peft alone -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
def test_peft_alone_makes_the_same_policy_of_a_saved_adapter(backbone: str, tmp_path: Path) -> None:
    policy, bare = backbone_policy(backbone), backbone_policy(backbone)
    adapt(policy, "lora_0", 1, rank=2)
    adapt(policy, "task_1", 2, rank=3, alpha=1.5, targets="linear", head=True)
    policy.save_pretrained(tmp_path)
    set_active(policy, ["task_1"])
    expected = policy.act(OBSERVATION, SEEDS)
    assert not torch.allclose(bare.act(OBSERVATION, SEEDS), expected, atol=1e-3)
    theirs = peft.PeftModel.from_pretrained(bare, tmp_path / "adapters" / "task_1")
    bare.eval()
    assert torch.equal(bare.act(OBSERVATION, SEEDS), expected)
    theirs.load_adapter(tmp_path / "adapters" / "lora_0", "other")
    theirs.set_adapter("other")
    set_active(policy, ["lora_0"])
    assert torch.equal(bare.act(OBSERVATION, SEEDS), policy.act(OBSERVATION, SEEDS))
    theirs.merge_and_unload()
    assert torch.allclose(bare.act(OBSERVATION, SEEDS), policy.act(OBSERVATION, SEEDS), atol=1e-5)


def test_an_adapter_is_saved_as_peft_saves_it(tmp_path: Path) -> None:
    policy, bare = backbone_policy("compact"), backbone_policy("compact")
    adapt(policy, "a", 1, rank=2)
    save_adapter(policy, "a", tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(bare, tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    ours, others = (load_file(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "theirs"))
    assert ours.keys() == others.keys() and all(torch.equal(each, others[name]) for name, each in ours.items())
    ours, others = (json.loads((tmp_path / who / "adapter_config.json").read_text()) for who in ("ours", "theirs"))
    assert ours["target_modules"] == sorted(policy.adapters["a"].modules)
    assert ours.keys() == others.keys()
    about_the_base = {"auto_mapping", "base_model_name_or_path", "target_modules"}
    assert {key: ours[key] for key in ours.keys() - about_the_base} == {
        key: others[key] for key in ours.keys() - about_the_base
    }


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_that_peft_trained_is_loaded(rslora: bool, tmp_path: Path) -> None:
    bare, policy = backbone_policy("lowdim"), backbone_policy("lowdim")
    config = peft.LoraConfig(
        r=4, lora_alpha=2, lora_dropout=0.1, use_rslora=rslora, target_modules=r".*blocks\.\d\.[13]"
    )
    theirs = peft.get_peft_model(bare, config)
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path)
    theirs.eval()
    load_adapter(policy, tmp_path, "theirs")
    assert adapter_names(policy) == policy.active_adapters == ("theirs",)
    assert all(each.requires_grad for each in adapter_parameters(policy, "theirs").values())
    assert torch.allclose(policy.act(OBSERVATION, SEEDS), bare.act(OBSERVATION, SEEDS), atol=1e-6)


def test_an_adapter_of_one_policy_goes_to_another_under_another_name(tmp_path: Path) -> None:
    policy, other = backbone_policy("lowdim", seed=3), backbone_policy("lowdim", seed=3)
    adapt(policy, "here", 1, rank=2)
    save_adapter(policy, "here", tmp_path)
    adapt(other, "present", 2, rank=5)
    set_active(other, [])
    load_adapter(other, tmp_path, "there")
    assert other.active_adapters == ("there",)
    assert torch.equal(other.act(OBSERVATION, SEEDS), policy.act(OBSERVATION, SEEDS))


# --- damage --------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    policy = make_policy(backbone="lowdim")
    adapt(policy, "a", rank=2)
    save_adapter(policy, "a", tmp_path / "a")
    return tmp_path / "a"


def configure(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))

    return change


def weigh(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")

    return rewrite


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({}))


def truncated(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


KEY = "base_model.model.backbone.mlp.blocks.0.1.lora_A.weight"
ELSEWHERE = KEY.replace("mlp", "mlq")
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "pickled": (pickled, "adapter_model.bin is pickled, which can run any code and is not read"),
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        "adapter_model.safetensors is missing",
    ),
    "no config": (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json is missing"),
    "truncated": (truncated, "adapter_model.safetensors is truncated or damaged"),
    "no json": (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json is damaged"),
    "a list": (lambda folder: (folder / "adapter_config.json").write_text("[]"), "is damaged .not a mapping."),
    "no lora": (configure(peft_type="IA3"), "is of kind 'IA3'; only LORA"),
    "dora": (configure(use_dora=True), "sets use_dora, which is not known here"),
    "biases": (configure(bias="all"), "trains biases"),
    "no rank": (configure(r=None), "is damaged .r=None"),
    "wrong rank": (configure(r=3), r"has shape \(2, 256\), not \(3, 256\)"),
    "infinite": (configure(lora_alpha=float("inf")), "is damaged .r=2, lora_alpha=inf"),
    "another layer": (
        weigh(lambda each: each.update({ELSEWHERE: each.pop(KEY)})),
        "has no layer 'backbone.mlq.blocks.0.1'",
    ),
    "half a layer": (weigh(lambda each: each.__delitem__(KEY)), f"lacks '{KEY}'"),
    "a foreign weight": (
        weigh(lambda each: each.update({"x": each.pop(KEY)})),
        "has 'x', which is no weight of a plain",
    ),
    "nothing": (weigh(dict.clear), "holds no weights"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_cannot_be_loaded_is_told_in_one_line_and_leaves_no_trace(damage: str, saved: Path) -> None:
    policy = backbone_policy("lowdim")
    before, names = policy.act(OBSERVATION, SEEDS), [*policy.state_dict()]
    change, message = DAMAGE[damage]
    change(saved)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_adapter(policy, saved, "a")
    assert "\n" not in str(caught.value)
    assert adapter_names(policy) == () and [*policy.state_dict()] == names
    assert torch.equal(policy.act(OBSERVATION, SEEDS), before)


def test_a_name_that_is_taken_or_unknown_or_merged_is_told(saved: Path, tmp_path: Path) -> None:
    policy: Policy = make_policy(backbone="lowdim")
    load_adapter(policy, saved, "a")
    with pytest.raises(ConfigurationError, match="already has an adapter 'a'"):
        load_adapter(policy, saved, "a")
    with pytest.raises(UnknownNameError, match="adapter 'b'"):
        save_adapter(policy, "b", tmp_path / "b")
    assert not (tmp_path / "b").exists()
    merge(policy)
    with pytest.raises(ConfigurationError, match="cannot be loaded while a are merged"):
        load_adapter(policy, saved, "b")
