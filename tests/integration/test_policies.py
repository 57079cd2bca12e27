"""Published recipes through the command line, on small models in the places of large ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.conftest import TINY, VlaCl, one_line
from tests.policies.vlms import save_vlm


def run(output: Path, demonstrations: Path, *more: str) -> list[str]:
    places = (f"output={output}", f"data={demonstrations}", "name=run")
    smaller = ("collection.episodes=2", "training.steps=12", "evaluation.episodes=1", "evaluation.zero_shot=false")
    return ["run", "suite=mw5", "length=1", "strategy=sequential", *TINY, *smaller, *places, *more]


def model(folder: Path, *more: str) -> tuple[str, ...]:
    """SmolVLA's recipe on a small model of the same family."""
    options = (f"path={folder}", "layers=2", "prompt_tokens=96", *more)
    return ("policy=smolvla", "policy.image_size=64", *(f"policy.backbone_options.{each}" for each in options))


def test_a_vision_language_model_from_a_folder_is_fine_tuned_and_then_needs_the_folder_no_more(
    tmp_path: Path, demonstrations: Path, vla_cl: VlaCl
) -> None:
    folder = save_vlm(tmp_path / "vlm")
    finished = vla_cl(*run(tmp_path, demonstrations, *model(folder)))
    assert finished.returncode == 0, finished.stderr
    checkpoint = tmp_path / "run/checkpoints/stage_00"
    given, kept = load_file(folder / "model.safetensors"), load_file(checkpoint / "model.safetensors")
    frozen = [name for name in kept if name.startswith("backbone.model.") and "patch_embedding.weight" in name]
    (stored,) = (tensor for name, tensor in given.items() if "patch_embedding.weight" in name)
    assert frozen and torch.equal(kept[frozen[0]], stored.to(kept[frozen[0]].dtype))
    assert list(demonstrations.rglob("*.features/*/features.json")), "a frozen model's contexts are kept"
    shutil.rmtree(folder)
    rolled = vla_cl("evaluate", str(tmp_path / "run"), "--episodes", "1", "--json")
    assert rolled.returncode == 0, rolled.stderr
    assert json.loads(rolled.stdout)[0]["episodes"] == 1


def test_low_rank_adapters_are_trained_and_kept_as_peft_keeps_them(
    tmp_path: Path, demonstrations: Path, vla_cl: VlaCl
) -> None:
    adapted = ("policy=compact", "policy.adapter.rank=4", "policy.head=regression")
    finished = vla_cl(*run(tmp_path, demonstrations, *adapted))
    assert finished.returncode == 0, finished.stderr
    folder = tmp_path / "run/checkpoints/stage_00/adapters/default"
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4
    assert any(tensor.any() for name, tensor in load_file(folder / "adapter_model.safetensors").items() if "_B" in name)


@pytest.mark.parametrize("mistake", ["absent", "no model", "pickled", "hub", "parts"])
def test_a_policy_that_cannot_be_had_is_told_in_one_line_before_anything_is_done(
    mistake: str, tmp_path: Path, demonstrations: Path, vla_cl: VlaCl
) -> None:
    folder = tmp_path / "model"
    if mistake == "no model":
        folder.mkdir()
    if mistake == "pickled":
        save_vlm(folder)
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    chosen, expected = {
        "absent": (model(folder), "there is no model folder"),
        "no model": (model(folder), "config.json"),
        "pickled": (model(folder), "safetensors"),
        "hub": (model(Path("nobody/no-such-model")), "hf download"),
        "parts": (("policy=compact", "policy.head=tokens", "policy.head_options.decoder=backbone"), "hf_vlm"),
    }[mistake]
    line = one_line(vla_cl(*run(tmp_path, demonstrations, *chosen)))
    assert expected in line
    assert not (tmp_path / "run").exists()
