"""The policy contract: backbone x action head.

The backbone turns images, instruction and proprioception into a context; the head turns a context into a chunk of
actions. Everything a strategy, the training loop or the evaluator may ask of a policy is here.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from vla_cl.data import ObservationBatch
from vla_cl.registry import Registry

if TYPE_CHECKING:
    from vla_cl.policies.soft_prompts import SoftPrompts


@dataclass(frozen=True)
class PolicyFeatures:
    """Shapes of what a policy sees and does.

    Args:
        action_dim: A.
        agent_pos_dim: S.
        cameras: Cameras in the order in which the backbone stacks them; empty without pixels.
        image_size: Height and width in pixels.
        environment_state_dim: E for a privileged policy, else 0.
        history: T, moments that an observation shows: the present one and those before it.
    """

    action_dim: int
    agent_pos_dim: int
    cameras: tuple[str, ...] = ()
    image_size: int = 64
    environment_state_dim: int = 0
    history: int = 1


@dataclass
class PolicyConfig:
    """What a policy is made of; a preset of `configs/policy/`, and `config.json` of a saved policy.

    Args:
        name: Label in tables.
        backbone: Name in `BACKBONES`; `backbone_options` are the fields of its `Options`.
        head: Name in `HEADS`; `head_options` are the fields of its `Options`.
        chunk: Actions predicted at once.
        execute: Actions executed before the policy looks again; `chunk` at most.
        pixels: Whether the policy sees cameras.
        cameras: Which; None is the suite's default pair.
        image_size: 64 to 256.
        privileged: Whether it sees `environment_state`.
        normalisation: How actions are scaled: "min_max" or "quantile" (q01 to q99) to [-1, 1], or "mean_std".
        random_shift: Augmentation: in training, each image is shifted by up to so many pixels along either axis.
        history: Moments that the policy sees: the present one and `history - 1` control steps before it.
        lookback: How many steps before the present a chunk begins; those actions are predicted, never executed
            (Diffusion Policy's horizon begins at the oldest observation, so there it is `history - 1`).
        temporal_ensemble: m of ACT's temporal ensembling (Zhao et al., arXiv 2304.13705): what is executed at a step is
            the mean of all chunks' actions for it, the i-th oldest weighed by exp(-m i). None executes the newest.
        adapter: LoRA from the start, fields of `vla_cl.policies.adapters.AdapterOptions`; empty for none.
    """

    name: str = "compact"
    backbone: str = "compact"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    head: str = "flow"
    head_options: dict[str, Any] = field(default_factory=dict)
    chunk: int = 8
    execute: int = 8
    pixels: bool = True
    cameras: list[str] | None = None
    image_size: int = 64
    privileged: bool = False
    normalisation: str = "min_max"
    random_shift: int = 0
    history: int = 1
    lookback: int = 0
    temporal_ensemble: float | None = None
    adapter: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LayersShape:
    """The transformer decoder behind a context, for heads that attend to its layers or go on with it.

    Args:
        count: L, of layers.
        width: Of its hidden states.
        heads: Of its queries.
        key_value_heads: Of its keys and values.
        head_dim: Numbers of one key.
        vocabulary: Tokens that it knows.
    """

    count: int
    width: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocabulary: int


@dataclass(frozen=True)
class ContextShape:
    """What a head knows of the contexts that it will be given.

    Args:
        width: D, of a context token.
        agent_pos_dim: S.
        tokens: N where it is always the same, all moments of the history together; else None.
        layers: The decoder that made them; None where the backbone has none.
    """

    width: int
    agent_pos_dim: int
    tokens: int | None = None
    layers: LayersShape | None = None


class Decoder(Protocol):
    """The transformer decoder that made a context, for heads that let it go on. It belongs to the backbone."""

    def embed(self, tokens: Tensor) -> Tensor:
        """Input embeddings (B, M, width) of tokens (B, M) of its vocabulary."""
        ...

    def extend(self, context: Context, embeddings: Tensor, *, causal: bool) -> tuple[Tensor, Context]:
        """Go on after a context with M more tokens.

        Args:
            context: Of this decoder, with `layers`.
            embeddings: Of the new tokens (B, M, width). Each sees the whole context.
            causal: Whether a new token sees only the new ones before it, and itself; else it sees all of them.

        Returns:
            Hidden states (B, M, width) after the decoder's last norm, and the context with the new tokens at its end.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (B, M, vocabulary), float32, of the next token."""
        ...

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B, M, head_dim) that rotate queries and keys at positions (B, M)."""
        ...


@dataclass(frozen=True)
class Context:
    """What a backbone makes of B observations.

    A token's position is the number of real tokens before it.

    Args:
        tokens: (B, N, D).
        agent_pos: Normalised proprioception (B, S) of the present, for heads that take it in themselves.
        mask: (B, N) bool, False where a token is padding; None where none is.
        layers: Keys and values (B, key_value_heads, N, head_dim) of each layer of the decoder, keys rotated; there when
            the head asked for them (`ActionHead.needs_layers`), else empty.
        decoder: What made the tokens, where that is a transformer decoder.
    """

    tokens: Tensor
    agent_pos: Tensor
    mask: Tensor | None = None
    layers: tuple[tuple[Tensor, Tensor], ...] = ()
    decoder: Decoder | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def pooled(self) -> Tensor:
        """The mean (B, D) of the tokens that are not padding."""
        if self.mask is None:
            return self.tokens.mean(dim=1)
        kept = self.mask[:, :, None].to(self.tokens.dtype)
        return (self.tokens * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)

    def __getitem__(self, rows: slice | Tensor) -> Context:
        """The contexts of some rows."""
        return replace(
            self,
            tokens=self.tokens[rows],
            agent_pos=self.agent_pos[rows],
            mask=None if self.mask is None else self.mask[rows],
            layers=tuple((keys[rows], values[rows]) for keys, values in self.layers),
        )


class Backbone(nn.Module, abc.ABC):
    """Observation to context. A subclass declares `Options`, a frozen dataclass, and is built as
    `Backbone(options, features)`.

    A backbone sees one moment; `Policy` shows it each moment of a history and joins the contexts.

    Attributes:
        shape: Of the contexts of one moment.
        layers_wanted: Whether contexts must hold `layers`; `Policy` sets it to what its head needs.
        prompt_width: D of the soft prompts that it lets pass beside its tokens; None where it takes none.
        prefix_layers: How many of its layers take prefixes.
        soft_prompts: Those in force (see `vla_cl.policies.soft_prompts`).
        expects_prompts: Whether there will be some: then `perceive` computes nothing that they would change.
        adapter_targets: A regular expression that matches whole names, inside the backbone, of the linear layers that
            LoRA adapts unless told otherwise.
    """

    Options: ClassVar[type]
    adapter_targets: ClassVar[str] = r"(.*\.)?layers\.\d+\..*"
    shape: ContextShape
    layers_wanted: bool = False
    prompt_width: int | None = None
    prefix_layers: int = 0
    soft_prompts: SoftPrompts | None = None
    expects_prompts: bool = False

    @classmethod
    def resolve(cls, options: Any) -> Any:
        """Options with everything decided that this machine decides ("auto"), as a saved policy must record them."""
        return options

    @classmethod
    def build(cls, options: Any, features: PolicyFeatures, files: Path | None = None) -> Backbone:
        """A new backbone, or, given the folder into which `save_files` wrote, one that is about to be given the saved
        weights and so need not load any.
        """
        return cls(options, features)

    @classmethod
    def outline(cls, options: Any, features: PolicyFeatures) -> ContextShape:
        """Shape of the contexts of a backbone of these options, found without loading weights.

        Raises:
            ConfigurationError: There can be no such backbone here.
        """
        return cls.build(options, features).shape

    def save_files(self, folder: Path) -> None:
        """Write what `build` needs beyond options and weights (a model's configuration, a tokenizer) into a folder that
        need not exist yet. No weights.
        """

    def freeze(self) -> None:
        """Train the weights no more, since adapters are trained in their place. A backbone around a pretrained model
        keeps training what is new in every policy.
        """
        self.requires_grad_(False)

    @abc.abstractmethod
    def forward(self, observation: ObservationBatch) -> Context:
        """The context of an observation whose numbers are normalised; pixels are raw uint8.

        Where `perceive` computes something, `observation.features` holds it if it was computed before; pixels are
        missing then.
        """

    def perceive(self, observation: ObservationBatch) -> Mapping[str, Tensor]:
        """What frozen weights make of an observation's images and instruction, as tensors (B, ...): it depends on
        nothing that is trained and can be computed once. Empty where nothing is worth it.
        """
        return {}

    def fingerprint(self) -> str:
        """Names what `perceive` computes: another name where weights or options lead to other values. "" without."""
        return ""


class ActionHead(nn.Module, abc.ABC):
    """Context to a chunk of normalised actions. A subclass declares `Options`, a frozen dataclass, and is built as
    `ActionHead(options, shape, chunk, action_dim)`; a context of that `ContextShape` that it cannot use is refused
    there, with the reason.

    A head that draws several noise samples for each context stacks them along K.

    `target`, `predict` and `divergence` expose what the head learns, at given noise, so that distillation (LwF) and
    dark replay (DER++) are written once for all heads. Noise is an opaque tensor (B, M) that `sample_noise` draws; a
    deterministic head has M = 0. Predictions are (B, P, K): P is the chunk, or, for heads that predict sequences of
    tokens, their length.

    Attributes:
        needs_layers: Whether it reads `Context.layers`.
        adapter_targets: A regular expression that matches whole names, inside the head, of the linear layers that LoRA
            adapts where it adapts heads.
    """

    Options: ClassVar[type]
    adapter_targets: ClassVar[str] = ".*"
    needs_layers: bool = False

    def prepare(self, chunks: Tensor, generator: torch.Generator) -> None:
        """Learn what must be known about actions before training: a tokenizer, a codebook.

        Called once, on the first task's normalised chunks (W, chunk, A), on the CPU; later tasks must do with what was
        learned then, which belongs into `state_dict`. Heads that know no such thing leave it alone.
        """

    @abc.abstractmethod
    def sample_noise(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Everything random in one loss evaluation (B, M), drawn on the CPU (for flow: the time and the noise)."""

    @abc.abstractmethod
    def target(self, actions: Tensor, noise: Tensor) -> Tensor:
        """What a prediction is compared with, from normalised actions (B, chunk, A): for flow the velocity."""

    @abc.abstractmethod
    def predict(self, context: Context, actions: Tensor, noise: Tensor) -> Tensor:
        """The head's prediction (B, P, K), float32, given the context, the clean actions that the noise corrupts or
        that a sequence model is fed with (ignored by others), and the noise.
        """

    def divergence(self, predicted: Tensor, reference: Tensor, padding: Tensor) -> Tensor:
        """How far a prediction is from another head's at the same actions and noise, e.g. an old policy's: (B,), 0 for
        equal ones. Mean squared error here; heads that predict distributions override it.

        Args:
            predicted: (B, P, K).
            reference: (B, P, K), without gradient.
            padding: Of the actions, (B, chunk).
        """
        return masked_mean((predicted - reference).square().mean(dim=-1), padding)

    @abc.abstractmethod
    def loss(self, context: Context, actions: Tensor, padding: Tensor, noise: Tensor) -> Tensor:
        """Per-sample loss (B,), averaged over actions that are not padding (B, chunk) bool."""

    @abc.abstractmethod
    def sample(self, context: Context, initial_noise: Tensor) -> Tensor:
        """Normalised actions (B, chunk, A) from a context and standard normal noise (B, chunk, A), from which all that
        is random in a row must come.
        """


def masked_mean(errors: Tensor, padding: Tensor) -> Tensor:
    """The mean (B,) of errors (B, chunk) where `padding` (B, chunk) is False; 0 where all is padding."""
    kept = (~padding).to(errors.dtype)
    # `where`, not a product: whatever lies in the padding, infinities included, leaves no trace in loss or gradient
    total = torch.where(padding, torch.zeros_like(errors), errors).sum(dim=1)
    return total / kept.sum(dim=1).clamp(min=1)


def repeat_last(actions: Tensor, padding: Tensor) -> Tensor:
    """Fill the padding of actions (B, chunk, A) with the last action before it: the network sees all of a noisy chunk,
    and what it sees past an episode's end should not depend on who wrote the file.
    """
    steps = torch.arange(padding.shape[1], device=padding.device).expand_as(padding)
    last = torch.where(padding, 0, steps).cummax(dim=1).values
    return actions.gather(1, last[:, :, None].expand_as(actions))


@dataclass(frozen=True)
class PolicyOutput:
    """What one forward pass on a batch produced.

    Args:
        loss: Per-sample imitation loss (B,).
        context: Of B observations.
        noise: Noise (B, M) at which the loss was taken.
    """

    loss: Tensor
    context: Context
    noise: Tensor


BACKBONES: Registry[type[Backbone]] = Registry("backbone", "vla_cl.policies", "vla-cl policies")
HEADS: Registry[type[ActionHead]] = Registry("action head", "vla_cl.policies", "vla-cl policies")
