"""The policy contract: backbone x action head.

The backbone turns images, instruction and proprioception into a context; the head turns a context into a chunk of
actions. Everything a strategy, the training loop or the evaluator may ask of a policy is here.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vla_cl.data import ObservationBatch
from vla_cl.registry import Registry


@dataclass(frozen=True)
class PolicyFeatures:
    """Shapes of what a policy sees and does.

    Args:
        action_dim: A.
        agent_pos_dim: S.
        cameras: Cameras in the order in which the backbone stacks them; empty without pixels.
        image_size: Height and width in pixels.
        environment_state_dim: E for a privileged policy, else 0.
    """

    action_dim: int
    agent_pos_dim: int
    cameras: tuple[str, ...] = ()
    image_size: int = 64
    environment_state_dim: int = 0


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


class Backbone(nn.Module, abc.ABC):
    """Observation to context. A subclass declares `Options`, a frozen dataclass, and is built as
    `Backbone(options, features)`.

    Attributes:
        context_dim: D, the width of a context token.
    """

    Options: ClassVar[type]
    context_dim: int

    @classmethod
    def resolve(cls, options: Any) -> Any:
        """Options with everything decided that this machine decides ("auto"), as a saved policy must record them."""
        return options

    @abc.abstractmethod
    def forward(self, observation: ObservationBatch) -> Tensor:
        """Context tokens (B, N, D) of an observation whose numbers are normalised; pixels are raw uint8."""


class ActionHead(nn.Module, abc.ABC):
    """Context to a chunk of normalised actions. A subclass declares `Options`, a frozen dataclass, and is built as
    `ActionHead(options, context_dim, chunk, action_dim)`.

    A head that draws several noise samples for each context stacks them along K.

    `target` and `predict` expose what the head regresses, at given noise, so that distillation (LwF) and dark replay
    (DER++) are written once for all heads. Noise is an opaque tensor (B, M) that `sample_noise` draws; a
    deterministic head has M = 0.
    """

    Options: ClassVar[type]

    @abc.abstractmethod
    def sample_noise(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Everything random in one loss evaluation (B, M), drawn on the CPU (for flow: the time and the noise)."""

    @abc.abstractmethod
    def target(self, actions: Tensor, noise: Tensor) -> Tensor:
        """What `predict` should return for normalised actions (B, chunk, A), e.g. the velocity: (B, chunk, K)."""

    @abc.abstractmethod
    def predict(self, context: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
        """The head's prediction (B, chunk, K) given context (B, N, D), the clean actions that the noise corrupts
        (ignored by a deterministic head), and the noise.
        """

    @abc.abstractmethod
    def loss(self, context: Tensor, actions: Tensor, padding: Tensor, noise: Tensor) -> Tensor:
        """Per-sample loss (B,), averaged over actions that are not padding (B, chunk) bool."""

    @abc.abstractmethod
    def sample(self, context: Tensor, initial_noise: Tensor) -> Tensor:
        """Normalised actions (B, chunk, A) from context (B, N, D) and standard normal noise (B, chunk, A)."""


@dataclass(frozen=True)
class PolicyOutput:
    """What one forward pass on a batch produced.

    Args:
        loss: Per-sample imitation loss (B,).
        context: Context tokens (B, N, D).
        noise: Noise (B, M) at which the loss was taken.
    """

    loss: Tensor
    context: Tensor
    noise: Tensor


BACKBONES: Registry[type[Backbone]] = Registry("backbone", "vla_cl.policies", "vla-cl policies")
HEADS: Registry[type[ActionHead]] = Registry("action head", "vla_cl.policies", "vla-cl policies")
