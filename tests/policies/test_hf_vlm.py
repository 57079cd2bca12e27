"""The hf_vlm backbone over small models of five families, loaded as a user loads his."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForImageTextToText

from tests.policies.conftest import make_batch
from tests.policies.vlms import CONFIGS, IMAGE, IMAGE_TOKEN, FolderOf, policy_from, saved_once, tokenizer
from vla_cl.policies import Policy

FAMILIES = tuple(CONFIGS)
SEEDS = [0, 1, 2]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    return saved_once(tmp_path_factory.mktemp("models"))


# --- what a context is ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_context_is_what_its_shape_says(family: str, folder_of: FolderOf) -> None:
    policy = policy_from(folder_of(family), layers_wanted=True)
    shape, context = policy.backbone.shape, policy.context(make_batch(3).observation)
    assert shape.layers is not None
    assert context.tokens.shape == (3, shape.tokens, shape.width)
    assert context.tokens.dtype == torch.float32
    assert context.mask is not None and context.mask.shape == (3, shape.tokens)
    assert len(context.layers) == shape.layers.count == 4
    expected = (3, shape.layers.key_value_heads, shape.tokens, shape.layers.head_dim)
    assert all(each.shape == expected for pair in context.layers for each in pair)
    images = shape.tokens - 24 - 1
    assert context.mask[:, :images].all() and context.mask[:, -1].all()
    prompts = context.mask[:, images:-1].sum(dim=1)
    begins = int(family in ("paligemma", "llava"))
    texts = make_batch(3).observation.instruction
    assert prompts.tolist() == [begins + len(tokenizer()(text + "\n").input_ids) for text in texts]


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_the_models_own_path(family: str, folder_of: FolderOf) -> None:
    """One camera, then the prompt: what the model makes of image tokens and text when asked the usual way."""
    folder = folder_of(family)
    attention = "bidirectional" if family == "paligemma" else "causal"
    policy = policy_from(folder, cameras=["corner2"], proprioception="none", attention=attention)
    batch = make_batch(1, instruction="open the window")
    context = policy.context(batch.observation)

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    images = batch.observation.pixels["corner2"].permute(0, 3, 1, 2).float()
    images = F.interpolate(images, (IMAGE, IMAGE), mode="bilinear", antialias=True) / 127.5 - 1
    ids = tokenizer(begins=family in ("paligemma", "llava"))("open the window\n").input_ids
    seen = policy.backbone.shape.tokens - 24
    ids = torch.tensor([[IMAGE_TOKEN] * seen + ids])
    nested = family in ("smolvlm", "idefics3")
    extra = {"token_type_ids": torch.zeros_like(ids)} if family == "paligemma" else {}
    with torch.no_grad():
        expected = model.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=images[:, None] if nested else images,
            **extra,
        ).last_hidden_state
    torch.testing.assert_close(context.tokens[:, : ids.shape[1]], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_does_not_depend_on_who_shares_the_batch(family: str, folder_of: FolderOf) -> None:
    policy = policy_from(folder_of(family))
    observation = make_batch(3).observation
    together = policy.context(observation).tokens
    for row in range(3):
        alone = policy.context(observation[row : row + 1]).tokens
        torch.testing.assert_close(alone, together[row : row + 1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_another_instruction_camera_or_state_gives_another_action(family: str, folder_of: FolderOf) -> None:
    policy = policy_from(folder_of(family))
    observation = make_batch(3, instruction="close the window").observation
    actions = policy.act(observation, SEEDS)
    first, second = observation.pixels
    swapped = {first: observation.pixels[second], second: observation.pixels[first]}
    for changed in (
        replace(observation, instruction=("open the window",) * 3),
        replace(observation, pixels=swapped),
        replace(observation, agent_pos=1 - observation.agent_pos),
    ):
        assert (policy.act(changed, SEEDS) - actions).abs().max() > 1e-4


@pytest.mark.parametrize("family", ["smolvlm", "idefics3", "llava"])
def test_black_images_are_images(family: str, folder_of: FolderOf, tmp_path: Path) -> None:
    """SmolVLM takes an image of zeros for padding; after normalisation with mean 0 a black image is one."""
    shutil.copytree(folder_of(family), tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}')
    policy = policy_from(tmp_path / "model")
    observation = make_batch(2).observation
    black = dict(observation.pixels)
    black["corner2"] = torch.zeros_like(black["corner2"])
    black["corner2"][1] = 1
    context = policy.context(replace(observation, pixels=black))
    assert context.tokens.shape[1] == policy.backbone.shape.tokens
    torch.testing.assert_close(
        context.tokens[:1], policy.context(replace(observation, pixels=black)[:1]).tokens, atol=1e-5, rtol=1e-4
    )


def test_images_are_normalised_as_the_folder_says(folder_of: FolderOf, tmp_path: Path) -> None:
    shutil.copytree(folder_of("llava"), tmp_path / "model")
    (tmp_path / "model" / "processor_config.json").write_text(
        '{"image_processor": {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.25, 0.2]}}'
    )
    policy = policy_from(tmp_path / "model")
    images = torch.randint(0, 256, (2, IMAGE, IMAGE, 3), dtype=torch.uint8)
    pixels = policy.backbone.images.pixels([images, images + 1])
    expected = (images.double() / 255 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.5, 0.25, 0.2])
    torch.testing.assert_close(pixels[::2], expected.permute(0, 3, 1, 2).float(), atol=1e-5, rtol=1e-5)
    policy.save_pretrained(tmp_path / "saved")
    assert Policy.from_pretrained(tmp_path / "saved").backbone.images == policy.backbone.images


def test_the_prompt_is_the_template_with_the_instruction(folder_of: FolderOf) -> None:
    policy = policy_from(folder_of("smolvlm"), prompt="do {instruction} {now}", prompt_tokens=40)
    ids, real = policy.backbone.prompts(["open the window", "turn"], torch.device("cpu"))
    assert tokenizer().decode(ids[0][real[0]]) == "do open the window {now}"
    assert tokenizer().decode(ids[1][real[1]]) == "do turn {now}"
    assert ids.shape == (2, 40)


# --- what is kept of the model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_layers_are_those_of_the_whole_model(family: str, folder_of: FolderOf) -> None:
    observation = make_batch(2).observation
    whole = policy_from(folder_of(family), layers_wanted=True)
    short = policy_from(folder_of(family), layers_wanted=True, layers=2)
    assert len(short.backbone.model.get_decoder().layers) == 2
    short.backbone.proprioception.load_state_dict(whole.backbone.proprioception.state_dict())
    found, expected = short.context(observation), whole.context(observation)
    assert short.backbone.shape.layers.count == 2 and len(found.layers) == 2
    for pair, other in zip(found.layers, expected.layers, strict=False):
        torch.testing.assert_close(pair, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_policy_needs_neither_hub_nor_the_original_folder(
    family: str, folder_of: FolderOf, tmp_path: Path
) -> None:
    original = tmp_path / "model"
    shutil.copytree(folder_of(family), original)
    policy = policy_from(original, layers=3, attention="bidirectional")
    observation = make_batch(3).observation
    actions = policy.act(observation, SEEDS)
    policy.save_pretrained(tmp_path / "saved")
    shutil.rmtree(original)
    loaded = Policy.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.act(observation, SEEDS), actions)
    assert loaded.state_dict().keys() == policy.state_dict().keys()
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(Policy.from_pretrained(tmp_path / "again").act(observation, SEEDS), actions)
    assert not any(path.suffix in (".bin", ".pt", ".pkl") for path in (tmp_path / "saved").rglob("*"))


def test_a_copy_stands_on_its_own(folder_of: FolderOf) -> None:
    policy = policy_from(folder_of("smolvlm"))
    other = copy.deepcopy(policy)
    observation = make_batch(3).observation
    before = policy.act(observation, SEEDS)
    with torch.no_grad():
        for parameter in policy.backbone.model.parameters():
            parameter.add_(0.1)
    assert torch.equal(other.act(observation, SEEDS), before)
    assert (policy.act(observation, SEEDS) - before).abs().max() > 1e-4
