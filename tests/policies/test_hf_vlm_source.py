"""Where a vision-language model comes from, and what is told of one that cannot be used."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, LlamaConfig, Qwen2_5_VLConfig

from tests.policies.conftest import make_batch, make_policy
from tests.policies.vlms import CONFIGS, FolderOf, make_model, policy_from, saved_once
from vla_cl.errors import CheckpointError, ConfigurationError, VlaClError
from vla_cl.policies import Policy, PolicyConfig, PolicyFeatures, build_policy
from vla_cl.policies.hf_architectures import ARCHITECTURES, TOKENIZER_FILE, instruction_tokenizer, train_tokenizer

HUB_ID = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    return saved_once(tmp_path_factory.mktemp("models"))


@pytest.fixture
def model(folder_of: FolderOf, tmp_path: Path) -> Path:
    """A folder that a test may damage."""
    shutil.copytree(folder_of("smolvlm"), tmp_path / "model")
    return tmp_path / "model"


def refused(folder: Path | str, **options: Any) -> str:
    """The one line that building a policy over a folder, and letting it see something, ends with."""
    with pytest.raises(VlaClError) as caught:
        policy_from(folder, **options).context(make_batch(2).observation)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the hub ---------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, and an empty cache of the hub: what HF_HUB_OFFLINE=1 HF_HUB_CACHE=... do before the start."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_hub_id_without_network_says_how_to_get_the_model_here(offline: Path) -> None:
    message = refused(HUB_ID)
    assert message.startswith(f"model {HUB_ID!r} cannot be fetched from the hub from here")
    assert f"hf download {HUB_ID} --local-dir FOLDER" in message


def test_a_name_that_does_not_resolve_is_the_same_mistake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert "cannot be fetched from the hub from here" in refused(HUB_ID)


def test_a_hub_id_that_was_fetched_before_works_without_network(offline: Path, folder_of: FolderOf) -> None:
    repository = offline / "models--somebody--small-vlm"
    shutil.copytree(folder_of("smolvlm"), repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    observation = make_batch(2).observation
    fetched = policy_from("somebody/small-vlm")
    local = policy_from(folder_of("smolvlm"))
    assert torch.equal(fetched.context(observation).tokens, local.context(observation).tokens)


@pytest.mark.parametrize("path", ["/nowhere/model", "./model", "model", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(path: str) -> None:
    assert refused(path).startswith(f"there is no model folder {path!r}")


# --- configurations --------------------------------------------------------------------------------------------


def test_a_folder_without_a_configuration_holds_no_model(tmp_path: Path) -> None:
    assert "holds no model: config.json is missing" in refused(tmp_path)


def test_a_text_only_model_is_refused(model: Path) -> None:
    LlamaConfig().save_pretrained(model)
    assert "holds a 'llama' model, which is no image-text-to-text model" in refused(model)


def test_qwen_is_refused_with_the_reason(model: Path) -> None:
    Qwen2_5_VLConfig().save_pretrained(model)
    message = refused(model)
    assert "'qwen2_5_vl' takes flattened patches with grid sizes" in message and "give SmolVLM2" in message


def change(path: Path, part: str = "", **values: Any) -> None:
    content = json.loads(path.read_text())
    (content[part] if part else content).update(values)
    path.write_text(json.dumps(content))


def test_remote_code_is_never_run(model: Path, tmp_path: Path) -> None:
    change(model / "config.json", model_type="martian", auto_map={"AutoConfig": "evil.Config"})
    (model / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    assert "without remote code" in refused(model)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model_type": "martian"}', '{"model_type": 3}'])
def test_a_configuration_that_is_none_is_refused(content: str, model: Path) -> None:
    (model / "config.json").write_text(content)
    assert "config.json describes no model" in refused(model)


@pytest.mark.parametrize("family", tuple(CONFIGS))
def test_more_layers_than_there_are_is_refused(family: str, folder_of: FolderOf) -> None:
    assert "layers=5 of backbone 'hf_vlm' are more than the 4" in refused(folder_of(family), layers=5)


def test_a_model_without_an_implementation_of_attention_names_the_other(folder_of: FolderOf) -> None:
    message = refused(folder_of("paligemma2"))
    assert message.endswith("'paligemma' has no 'sdpa' attention in transformers; set attn_implementation=eager")


# --- weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_recognised(kept: float, model: Path) -> None:
    weights = model / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(kept * len(content))])
    assert f"the weights in {model} are truncated" in refused(model)


def test_pickled_weights_are_not_opened(model: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
            return open, (str(tmp_path / "ran"), "w")

    (model / "model.safetensors").unlink()
    torch.save({"weight": Evil()}, model / "pytorch_model.bin")
    assert "holds only pickled weights, which can run code" in refused(model)
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_weights_is_named(model: Path) -> None:
    (model / "model.safetensors").unlink()
    assert "holds no weights" in refused(model)


def test_weights_of_another_model_are_recognised(model: Path, folder_of: FolderOf) -> None:
    shutil.copy(folder_of("paligemma") / "model.safetensors", model)
    assert f"the weights in {model} lack '" in refused(model)


def test_weights_of_another_size_are_recognised(model: Path) -> None:
    change(model / "config.json", "text_config", intermediate_size=128)
    assert "have another size of 'model.text_model.layers.0.mlp" in refused(model)


def test_weights_in_several_files_are_one_model(folder_of: FolderOf, tmp_path: Path) -> None:
    shutil.copytree(folder_of("smolvlm"), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    make_model("smolvlm").save_pretrained(tmp_path / "model", max_shard_size="100KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    observation = make_batch(2).observation
    found = policy_from(tmp_path / "model").context(observation).tokens
    assert torch.equal(found, policy_from(folder_of("smolvlm")).context(observation).tokens)


# --- tokenizer and images ----------------------------------------------------------------------------------------


def test_a_folder_without_a_tokenizer_is_named(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    assert "holds no tokenizer" in refused(model)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_a_damaged_tokenizer_is_recognised(content: str, model: Path) -> None:
    (model / "tokenizer.json").write_text(content)
    assert f"the tokenizer in {model} cannot be read" in refused(model)


def test_a_tokenizer_of_another_model_is_recognised(model: Path) -> None:
    change(model / "config.json", "text_config", vocab_size=64)
    config = type(CONFIGS["smolvlm"]()).from_pretrained(model)
    AutoModelForImageTextToText.from_config(config).save_pretrained(model)
    assert "the language model knows 64; put the tokenizer" in refused(model)


@pytest.mark.parametrize("content", ["{", '{"image_mean": 3}', '{"image_std": [0, 1, 1]}', '{"image_mean": [0.5]}'])
def test_a_damaged_image_processor_is_recognised(content: str, model: Path) -> None:
    (model / "preprocessor_config.json").write_text(content)
    assert "preprocessor_config.json is damaged" in refused(model)


def test_an_instruction_longer_than_the_prompt_says_how_long_it_is(folder_of: FolderOf) -> None:
    message = refused(folder_of("smolvlm"), prompt_tokens=3)
    needed = int(message.split("at least ")[1].split(",")[0])
    assert "policy.backbone_options.prompt_tokens" in message
    policy = policy_from(folder_of("smolvlm"), prompt_tokens=needed)
    policy.context(make_batch(1, instruction="close the window").observation)


# --- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs either path"),
        ({"path": "x", "architecture": "tiny_smolvlm"}, "needs either path"),
        ({"architecture": "tiny_smolvla"}, "did you mean 'tiny_smolvlm'?"),
        ({"architecture": "tiny_smolvlm", "attention": "full"}, "attention of backbone 'hf_vlm' 'full'"),
        ({"architecture": "tiny_smolvlm", "proprioception": "suffix"}, "proprioception of backbone 'hf_vlm' 'suffix'"),
        ({"architecture": "tiny_smolvlm", "dtype": "float16"}, "dtype of backbone 'hf_vlm' 'float16'"),
        ({"architecture": "tiny_smolvlm", "attn_implementation": "flash_attention_2"}, "attn_implementation"),
        ({"architecture": "tiny_smolvlm", "layers": -1}, "layers of backbone 'hf_vlm' must be at least 0"),
        ({"architecture": "tiny_smolvlm", "prompt": "go"}, "must contain {instruction}"),
        ({"architecture": "tiny_smolvlm", "prompt_tokens": 0}, "prompt_tokens of backbone 'hf_vlm' must be at least 1"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(VlaClError) as caught:
        make_policy(backbone="hf_vlm", backbone_options=options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_policy_without_cameras_is_refused() -> None:
    config = PolicyConfig(backbone="hf_vlm", backbone_options={"architecture": "tiny_smolvlm"}, pixels=False)
    with pytest.raises(ConfigurationError, match="sees through cameras"):
        build_policy(config, PolicyFeatures(action_dim=4, agent_pos_dim=4), seed=0)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_saved_policy_that_lost_a_file_is_recognised(name: str, folder_of: FolderOf, tmp_path: Path) -> None:
    policy_from(folder_of("smolvlm")).save_pretrained(tmp_path)
    (tmp_path / "backbone" / name).unlink()
    with pytest.raises(CheckpointError, match=r"the saved policy's backbone is incomplete"):
        Policy.from_pretrained(tmp_path)


# --- built-in sizes ------------------------------------------------------------------------------------------------


def test_the_tiny_model_is_small_and_learns() -> None:
    policy = make_policy(
        backbone="hf_vlm",
        backbone_options={"architecture": "tiny_smolvlm", "prompt_tokens": 16},
        head="regression",
        chunk=4,
    )
    assert 2e6 < sum(each.numel() for each in policy.backbone.parameters()) < 3e6
    assert policy.backbone.shape.tokens == 2 * 16 + 16 + 1
    batch = make_batch(2, chunk=4)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        loss = policy.loss(batch, torch.Generator()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


def test_the_large_built_in_model_has_the_published_sizes() -> None:
    """507,482,304 parameters, as the hub counts SmolVLM2-500M-Video-Instruct; 64 tokens for an image of 512 pixels."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(ARCHITECTURES["smolvlm_500m"]())
    assert sum(each.numel() for each in model.parameters()) == 507_482_304
    assert model.model.image_seq_len == 64


def test_built_in_models_are_a_function_of_the_seed_and_are_saved_whole(tmp_path: Path) -> None:
    options = {"architecture": "tiny_smolvlm", "layers": 2, "prompt_tokens": 16}
    first, again, other = (make_policy(seed, backbone="hf_vlm", backbone_options=options) for seed in (3, 3, 4))
    state, same, different = (each.backbone.state_dict() for each in (first, again, other))
    assert all(torch.equal(tensor, same[name]) for name, tensor in state.items())
    name = "model.connector.modality_projection.proj.weight"
    assert not torch.equal(state[name], different[name])
    first.save_pretrained(tmp_path)
    observation = make_batch(2).observation
    assert torch.equal(Policy.from_pretrained(tmp_path).act(observation, [0, 1]), first.act(observation, [0, 1]))


@pytest.mark.parametrize("text", ["close the window", "Ergreife den Würfel 🤖 漢字", "  two  spaces\n", ""])
def test_the_built_in_tokenizer_writes_every_text(text: str) -> None:
    tokenizer = instruction_tokenizer()
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_built_in_tokenizer_is_what_all_suites_instructions_make_it() -> None:
    """In a process of its own: other tests register suites."""
    script = (
        "from vla_cl.policies.hf_architectures import registered_instructions, train_tokenizer; "
        "texts = registered_instructions(); assert len(texts) > 1000; "
        "print(train_tokenizer(reversed(texts)), end='')"
    )
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert made == TOKENIZER_FILE.read_text(encoding="utf-8")


def test_words_that_are_often_said_become_one_token() -> None:
    inner = json.loads(train_tokenizer(["close the window", "open the window", "clean the window"], size=300))
    assert {"Ġthe", "Ġwindow"} <= inner["model"]["vocab"].keys()
