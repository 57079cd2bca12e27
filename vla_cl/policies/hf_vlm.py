"""The `hf_vlm` backbone: any image-text-to-text model of transformers, from the hub, a folder or from scratch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_cl.data import ObservationBatch
from vla_cl.errors import CheckpointError, ConfigurationError
from vla_cl.files import write_text
from vla_cl.policies.base import BACKBONES, Backbone, Context, ContextShape, PolicyFeatures
from vla_cl.policies.hf_architectures import ARCHITECTURES, instruction_tokenizer
from vla_cl.policies.hf_decoder import (
    LanguageDecoder,
    Layers,
    checkpointed,
    enable_checkpointing,
    outward,
    outward_layers,
    positions_of,
    prefix_visibility,
)
from vla_cl.policies.hf_images import ImageFormat, count_image_tokens, image_tokens
from vla_cl.policies.hf_options import KIND, HfVlmOptions
from vla_cl.policies.hf_prompt import Prompts, read_tokenizer
from vla_cl.policies.hf_source import (
    CONFIG_FILE,
    check_weights,
    load_model,
    model_folder,
    new_model,
    read_config,
    truncated,
)
from vla_cl.policies.images import check_cameras, views
from vla_cl.policies.layers import token_mlp


@BACKBONES.decorator("hf_vlm")
class HfVlmBackbone(Backbone):
    """Images of all cameras, the prompt and proprioception through a pretrained vision-language model.

    The sequence is each camera's image tokens, the prompt, and the proprioception token. The model is always in
    evaluation mode: it has no dropout.

    Args:
        options: Which model, and how.
        features: Shapes of what it sees.
        files: Where `save_files` wrote; the model is built from there, without weights.
        weights: Whether the weights of `options.path` are loaded.

    Attributes:
        model: The vision-language model without its language modelling head.
        lm_head: That head; None where the input embeddings are its weights.

    Raises:
        ConfigurationError: There are no cameras, or the model cannot be had or used.
    """

    Options = HfVlmOptions
    adapter_targets = r"model\.(?!.*vision).*\blayers\.\d+\..*_proj"

    def __init__(
        self, options: HfVlmOptions, features: PolicyFeatures, files: Path | None = None, *, weights: bool = True
    ) -> None:
        super().__init__()
        check_cameras(KIND, features)
        self.options, self.features = options, features
        whole, tokenizer, self.images = _load(options, files, weights)
        config = whole.config.get_text_config()
        self.prompts = Prompts(tokenizer, options.prompt, options.prompt_tokens, config.vocab_size)
        self.model: Any = whole.base_model
        head = whole.get_output_embeddings()
        tied = head is None or head.weight is self.model.get_input_embeddings().weight
        self.lm_head: Any = None if tied else head
        self.model.eval()
        self._freeze()
        self._parameters_there = len(self._pretrained())
        if options.gradient_checkpointing:
            enable_checkpointing(self.model)
        self.language = LanguageDecoder(
            self.model,
            self.lm_head,
            eager=options.attn_implementation == "eager",
            checkpointing=options.gradient_checkpointing,
        )

        width = self.prompt_width = config.hidden_size
        self.prefix = len(features.cameras) * count_image_tokens(self.model, self.images) + options.prompt_tokens
        self.proprioception: nn.Module | None = None
        if options.proprioception != "none":
            self.proprioception = token_mlp(features.agent_pos_dim, width)
        # a token behind the decoder's output has no keys and values in its layers
        layers = None if options.proprioception == "context" else self.language.shape
        tokens = self.prefix + (self.proprioception is not None)
        self.shape = ContextShape(width, features.agent_pos_dim, tokens, layers)

    @classmethod
    def build(cls, options: Any, features: PolicyFeatures, files: Path | None = None) -> Backbone:
        return cls(options, features, files)

    @classmethod
    def outline(cls, options: Any, features: PolicyFeatures) -> ContextShape:
        return cls(options, features, weights=False).shape

    def save_files(self, folder: Path) -> None:
        """The model's configuration, the normalisation of its images, and its tokenizer."""
        write_text(folder / CONFIG_FILE, self.model.config.to_json_string())
        self.images.save(folder)
        self.prompts.save(folder)

    def train(self, mode: bool = True) -> HfVlmBackbone:
        super().train(mode)
        self.model.eval()
        return self

    # --- forward -------------------------------------------------------------------------------------------

    def forward(self, observation: ObservationBatch) -> Context:
        """Image tokens of each camera, the prompt's tokens, and proprioception last.

        Raises:
            ConfigurationError: A camera is missing, an instruction is longer than the prompt, or the observation holds
                what a frozen model saw, and this one is trained or sees soft prompts.
        """
        if observation.features and not self.frozen:
            why = "is to see soft prompts" if self.prompted else "is trained"
            raise ConfigurationError(
                f"the observation holds what a frozen model saw, but {KIND} {why} here; give it images"
            )
        if self.frozen:
            context = self._recalled(observation.features or self.perceive(observation), observation.agent_pos)
            return self._with_proprioception(context)
        embeddings, mask = self._prefix(observation)
        inside = self.options.proprioception == "prefix"
        if inside:
            embeddings = torch.cat([embeddings, self._token(observation.agent_pos).to(embeddings.dtype)], dim=1)
            mask = F.pad(mask, (0, 1), value=True)
        hidden, layers = self._run(embeddings, mask, layers=self.layers_wanted)
        context = self._context(hidden, mask, layers, observation.agent_pos)
        return context if inside else self._with_proprioception(context)

    def _prefix(self, observation: ObservationBatch) -> tuple[Tensor, Tensor]:
        """Embeddings of images and prompt (B, prefix, D), and which are real."""
        pixels = self.images.pixels(views(observation, self.features))
        batch = len(observation)
        again = self.options.gradient_checkpointing and torch.is_grad_enabled()
        with checkpointed(self.model) if again else nullcontext():
            seen = image_tokens(self.model, pixels)
        ids, real = self.prompts(observation.instruction, pixels.device)
        told = self.language.embed(ids)
        seen = seen.reshape(batch, -1, seen.shape[-1]).to(told.dtype)
        mask = torch.cat([real.new_ones(batch, seen.shape[1]), real], dim=1)
        return torch.cat([seen, told], dim=1), mask

    def _run(self, embeddings: Tensor, mask: Tensor, *, layers: bool) -> tuple[Tensor, Layers]:
        """Soft prompts come first, where all tokens see them, at positions before 0, so that nothing else moves; their
        hidden states, keys and values are dropped.
        """
        positions, first = positions_of(mask), 0
        if self.soft_prompts is not None and self.soft_prompts.tokens is not None:
            prompts = self.soft_prompts.tokens
            first = prompts.shape[1]
            embeddings = torch.cat([prompts.to(embeddings.dtype), embeddings], dim=1)
            mask = F.pad(mask, (first, 0), value=True)
            before = torch.arange(-first, 0, device=mask.device).expand(len(mask), -1)
            positions = torch.cat([before, positions], dim=1)
        bidirectional = self.options.attention == "bidirectional"
        visible = prefix_visibility(mask, first + self.prefix, bidirectional=bidirectional)
        hidden, found = self.language.run(embeddings, visible, positions, layers=layers)
        if not first:
            return hidden, found
        return hidden[:, first:], tuple((keys[:, :, first:], values[:, :, first:]) for keys, values in found)

    def _context(self, hidden: Tensor, mask: Tensor, layers: Layers, agent_pos: Tensor) -> Context:
        return Context(outward(hidden), agent_pos, mask, outward_layers(layers), self.language)

    def _token(self, agent_pos: Tensor) -> Tensor:
        """The proprioception token (B, 1, D)."""
        token: Tensor = self.proprioception(agent_pos)[:, None]  # type: ignore[misc]
        return token

    def _with_proprioception(self, context: Context) -> Context:
        """The context of images and prompt alone, with proprioception at its end."""
        if self.proprioception is None:
            return context
        token = self._token(context.agent_pos)
        if self.options.proprioception == "prefix":
            _, context = self.language.extend(context, token, causal=True)
            return context if self.layers_wanted else replace(context, layers=())
        mask = context.mask
        return replace(
            context,
            tokens=torch.cat([context.tokens, token.to(context.tokens.dtype)], dim=1),
            mask=None if mask is None else F.pad(mask, (0, 1), value=True),
            layers=(),
        )

    # --- what frozen weights see -----------------------------------------------------------------------------

    @property
    def frozen(self) -> bool:
        """Whether nothing in the model is trained, nothing was added to it (LoRA), and no soft prompts enter it."""
        options = self.options
        if self.prompted or not (options.freeze_vision and options.freeze_connector and options.freeze_text):
            return False
        parameters = self._pretrained()
        return len(parameters) == self._parameters_there and not any(each.requires_grad for each in parameters)

    @property
    def prompted(self) -> bool:
        """Whether soft prompts pass through the model, or will."""
        return self.expects_prompts or self.soft_prompts is not None

    @torch.no_grad()
    def perceive(self, observation: ObservationBatch) -> Mapping[str, Tensor]:
        """Of a frozen model: "tokens" (B, prefix, D) and "mask" (B, prefix) of images and prompt, and, where the head
        reads layers or a proprioception token follows, "layers" (B, L, 2, key_value_heads, prefix, head_dim).
        Proprioception is no part of it: its token comes last, and what comes before does not see it.
        """
        if not self.frozen:
            return {}
        embeddings, mask = self._prefix(observation)
        wanted = self.layers_wanted or self.options.proprioception == "prefix"
        hidden, layers = self._run(embeddings, mask, layers=wanted)
        perceived = {"tokens": hidden, "mask": mask}
        if wanted:
            perceived["layers"] = torch.stack([torch.stack(each, dim=1) for each in layers], dim=1)
        return perceived

    def _recalled(self, features: Mapping[str, Tensor], agent_pos: Tensor) -> Context:
        layers: Layers = ()
        if "layers" in features:
            layers = tuple((each[:, 0], each[:, 1]) for each in features["layers"].unbind(dim=1))
        return self._context(features["tokens"], features["mask"], layers, agent_pos)

    def fingerprint(self) -> str:
        """SHA-256 of the frozen weights and of all that decides over what `perceive` computes; "" unless frozen."""
        if not self.frozen:
            return ""
        digest = hashlib.sha256()
        options = self.options
        told = (options.attention, options.dtype, options.attn_implementation, options.proprioception)
        digest.update(repr((told, self.layers_wanted, self.features.cameras, self.images)).encode())
        digest.update(self.prompts.description().encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    # --- parts -----------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """The model with all its parts; the proprioception token, which no model brings along, goes on."""
        for parameter in self._pretrained():
            parameter.requires_grad_(False)

    def _freeze(self) -> None:
        text = set(self.model.get_decoder().parameters())
        vision = {each for tower in _towers(self.model) for each in tower.parameters()} - text
        for parameter in self.model.parameters():
            frozen = (
                self.options.freeze_text
                if parameter in text
                else self.options.freeze_vision
                if parameter in vision
                else self.options.freeze_connector
            )
            parameter.requires_grad_(not frozen)
        if self.lm_head is not None:
            self.lm_head.requires_grad_(not self.options.freeze_text)

    def _pretrained(self) -> list[nn.Parameter]:
        """Parameters of the model and of its head."""
        modules = [self.model] if self.lm_head is None else [self.model, self.lm_head]
        return [parameter for module in modules for parameter in module.parameters()]


def _load(options: HfVlmOptions, files: Path | None, weights: bool) -> tuple[Any, Any, ImageFormat]:
    """Model, tokenizer and image format."""
    dtype, attention = getattr(torch, options.dtype), options.attn_implementation
    if files is not None:
        try:
            config = read_config(files)
            model = new_model(config, dtype, attention, initialised=False)
            return model, read_tokenizer(files), ImageFormat.read(config, files)
        except ConfigurationError as error:
            raise CheckpointError(f"the saved policy's backbone is incomplete: {error}") from error
    if options.architecture:
        config = truncated(ARCHITECTURES[options.architecture](), options.layers)
        return new_model(config, dtype, attention), instruction_tokenizer(), ImageFormat.read(config)
    folder = model_folder(options.path, options.revision)
    config = read_config(folder, options.layers)
    tokenizer = read_tokenizer(folder)
    check_weights(folder)
    if weights:
        model = load_model(folder, config, dtype, attention)
    else:
        model = new_model(config, dtype, attention, initialised=False)
    return model, tokenizer, ImageFormat.read(config, folder)


def _towers(model: Any) -> list[nn.Module]:
    """The vision tower, under the names that transformers' models give it."""
    names = ("vision_model", "vision_tower", "visual", "vision_encoder", "image_encoder")
    return [getattr(model, name) for name in names if isinstance(getattr(model, name, None), nn.Module)]
