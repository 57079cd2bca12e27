"""Policy = backbone x action head, with frozen normalisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vla_cl.data import Batch, ObservationBatch, Statistics, WindowDataset, concatenate_observations
from vla_cl.errors import ConfigurationError
from vla_cl.policies.adapter_layers import add_adapter, freeze_base
from vla_cl.policies.adapter_mixture import Mixing, Route, mixture
from vla_cl.policies.adapter_targets import Adapter, AdapterOptions
from vla_cl.policies.augmentation import random_shift
from vla_cl.policies.base import (
    BACKBONES,
    HEADS,
    ActionHead,
    Backbone,
    Context,
    PolicyConfig,
    PolicyFeatures,
    PolicyOutput,
)
from vla_cl.policies.history import History
from vla_cl.policies.normalisation import Normaliser
from vla_cl.policies.options import build_options
from vla_cl.seeding import derive_seed, torch_generator

PREPARATION_WINDOWS = 4096
FIRST_ADAPTER = "default"
"""Name of the adapter that a policy's configuration asks for."""
HeadLoss = Callable[[Context, Tensor, Tensor, Tensor], Tensor]
"""`ActionHead.loss`, or something that computes the same."""
BACKBONE_FILES = "backbone"
"""Folder, inside a saved policy's, of what its backbone keeps beside the weights."""


class Policy(nn.Module):
    """A vision-language-action policy.

    Build it with `build_policy` or `Policy.from_pretrained`. Before it can be used, `set_statistics` freezes its
    normalisation. It behaves the same in training and evaluation mode; augmentation happens in `forward` only.

    Attributes:
        config: What it is made of, every "auto" resolved.
        features: Shapes of what it sees and does.
        backbone: Observation of one moment to context.
        history: Joins the contexts of the moments that it sees.
        head: Context to normalised actions.
        normaliser: The frozen statistics.
        adapters: Its low-rank adapters, in the order in which they were added; see `vla_cl.policies.adapters`.
        active_adapters: Those that act while nothing else is said.
        merged_adapters: Those that are in the base weights now.
        mixing: The route that is in force, else None.
    """

    def __init__(self, config: PolicyConfig, features: PolicyFeatures, backbone: Backbone, head: ActionHead) -> None:
        super().__init__()
        self.config = config
        self.features = features
        self.backbone = backbone
        self.history = History(backbone.shape, features.history)
        self.head = head
        backbone.layers_wanted = head.needs_layers
        self.normaliser = Normaliser(features, config.normalisation)
        self.adapters: dict[str, Adapter] = {}
        self.active_adapters: tuple[str, ...] = ()
        self.merged_adapters: tuple[str, ...] = ()
        self.mixing: Mixing | None = None

    # --- training ------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, generator: torch.Generator) -> PolicyOutput:
        """The imitation loss on a batch, and what it was computed from.

        Args:
            batch: B windows in raw units, on the policy's device.
            generator: A CPU generator, for the head's noise and the augmentation.
        """
        return self.imitate(*self.draw(batch, generator))

    def draw(self, batch: Batch, generator: torch.Generator) -> tuple[Batch, Tensor]:
        """All that is random in `forward`: the batch, its images augmented, and the head's noise (B, M)."""
        noise = self.head.sample_noise(len(batch), generator).to(batch.actions.device)
        return replace(batch, observation=self._augmented(batch.observation, generator)), noise

    def imitate(self, batch: Batch, noise: Tensor, head_loss: HeadLoss | None = None) -> PolicyOutput:
        """The imitation loss on a batch at given noise. Any part of the rows gives that part of the losses.

        Args:
            batch: B windows, augmented.
            noise: (B, M).
            head_loss: What computes the head's loss, when it is not the head as it is but its compiled form.
        """
        context = self.context(batch.observation)
        actions = self.normalise_actions(batch.actions)
        loss = (head_loss or self.head.loss)(context, actions, batch.padding, noise)
        return PolicyOutput(loss=loss, context=context, noise=noise)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Per-sample imitation loss (B,)."""
        output: PolicyOutput = self(batch, generator)
        return output.loss

    def context(self, observation: ObservationBatch) -> Context:
        """The context of B observations in raw units.

        Raises:
            ConfigurationError: They show another number of moments than the policy sees, lack a camera, or are not
                as many as the route or the prompts in force are for.
        """
        self._check_frozen()
        if self.mixing is not None:
            self.mixing.check(len(observation))
        if self.backbone.soft_prompts is not None:
            self.backbone.soft_prompts.check(len(observation))
        moments = observation.moments
        if len(moments) != self.features.history:
            raise ConfigurationError(f"this policy sees {self.features.history} moments, got {len(moments)}")
        seen = concatenate_observations(moments) if len(moments) > 1 else observation
        normaliser, state = self.normaliser, seen.environment_state
        if normaliser.environment_state is not None and state is not None:
            state = normaliser.environment_state.normalise(state)
        agent_pos = normaliser.agent_pos.normalise(seen.agent_pos)
        context: Context = self.backbone(replace(seen, agent_pos=agent_pos, environment_state=state))
        joined: Context = self.history(context)
        return joined

    def normalise_actions(self, actions: Tensor) -> Tensor:
        """Raw actions (..., A) as the head knows them."""
        self._check_frozen()
        return self.normaliser.action.normalise(actions)

    # --- acting --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, observation: ObservationBatch, seeds: Sequence[int], route: Route | None = None) -> Tensor:
        """Chunks of raw actions (B, chunk, A) in [-1, 1].

        Args:
            observation: B observations in raw units, on the policy's device.
            seeds: One a row. A row's actions depend on its observation and its seed, not on who shares the batch.
            route: Weights of the adapters that act, one for all rows or one a row (B,): {} is the base alone, None what
                is active (see `vla_cl.policies.adapters.mixture`).

        Raises:
            UnknownNameError: The route names an adapter that is not there.
            ConfigurationError: There is not one seed a row, or the route's weights cannot be used.
        """
        if len(seeds) != len(observation):
            raise ConfigurationError(f"act needs one seed a row: {len(observation)} rows, {len(seeds)} seeds")
        shape = (self.config.chunk, self.features.action_dim)
        noise = torch.stack([torch.randn(shape, generator=torch_generator(int(seed))) for seed in seeds])
        with nullcontext() if route is None else mixture(self, route):
            context = self.context(observation)
            normalised = self.head.sample(context, noise.to(context.tokens.device))
        return self.normaliser.action.denormalise(normalised.float()).clamp(-1.0, 1.0)

    # --- normalisation -------------------------------------------------------------------------------------

    @property
    def statistics(self) -> Statistics | None:
        """What normalisation is made of; None until it is set."""
        return self.normaliser.statistics

    def set_statistics(self, statistics: Statistics) -> None:
        """Freeze the normalisation. Setting the same statistics again is harmless.

        Raises:
            ConfigurationError: Others were set before, or their sizes do not fit.
        """
        self.normaliser.set_statistics(statistics)

    @torch.no_grad()
    def prepare(self, data: WindowDataset, seed: int) -> None:
        """Let the head learn what it must know of actions (a tokenizer, a codebook) from a first task's windows.

        Args:
            data: The windows; at most `PREPARATION_WINDOWS`, drawn at random, are looked at.
            seed: Of the draw and of what is learned.
        """
        generator = torch_generator(seed, "prepare")
        chosen = torch.randperm(len(data), generator=generator)[:PREPARATION_WINDOWS].sort().values
        chunks = self.normalise_actions(data.action_chunks(chosen.numpy()).to(self.normaliser.action.mean.device))
        device = chunks.device
        with torch.enable_grad():
            self.head.cpu().prepare(chunks.cpu(), generator)
        self.head.to(device)

    # --- files ---------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into a folder, each whole or not at all, and every adapter into
        `adapters/<name>/` as peft does.

        Raises:
            ConfigurationError: Adapters are merged.
            VlaClError: The disk is full or the folder cannot be written.
        """
        from vla_cl.policies.checkpoint import save_policy

        save_policy(self, Path(folder))

    @staticmethod
    def from_pretrained(folder: str | Path) -> Policy:
        """Read what `save_pretrained` wrote, on the CPU: with its adapters, and what of it was frozen still is.

        Raises:
            CheckpointError: A file is missing, damaged or of another policy.
        """
        from vla_cl.policies.checkpoint import load_policy

        return load_policy(Path(folder))

    # --- inside --------------------------------------------------------------------------------------------

    def _augmented(self, observation: ObservationBatch, generator: torch.Generator) -> ObservationBatch:
        if not self.config.random_shift:
            return observation
        pixels = {
            camera: random_shift(images, self.config.random_shift, generator)
            for camera, images in observation.pixels.items()
        }
        past = tuple(self._augmented(moment, generator) for moment in observation.past)
        return replace(observation, pixels=pixels, past=past)

    def _check_frozen(self) -> None:
        if bool(self.normaliser.action.mean.isnan().any()):
            raise ConfigurationError("this policy has no normalisation yet; call set_statistics first")


def build_policy(config: PolicyConfig, features: PolicyFeatures, seed: int, files: Path | None = None) -> Policy:
    """A fresh policy on the CPU, whose initial weights are a function of the seed; global generators are left alone.

    Args:
        config: What it is made of.
        features: Shapes of what it sees and does.
        seed: Of the initial weights.
        files: Folder of a saved policy, whose weights are about to be loaded: what the backbone keeps beside weights is
            read from it, pretrained weights are not fetched, and no adapter is added.

    Raises:
        UnknownNameError: The backbone, the head, an option or the normalisation is unknown.
        ConfigurationError: The parts do not fit each other or the features.
    """
    backbone_class, head_class = BACKBONES[config.backbone], HEADS[config.head]
    backbone_options, head_options, adapter_options = _checked_options(config)
    backbone_options = backbone_class.resolve(backbone_options)
    resolved = replace(
        config,
        backbone_options=dataclasses.asdict(backbone_options),
        head_options=dataclasses.asdict(head_options),
        adapter=dataclasses.asdict(adapter_options) if config.adapter else {},
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "initial weights"))
        backbone = backbone_class.build(backbone_options, features, None if files is None else files / BACKBONE_FILES)
        shape = History(backbone.shape, features.history).shape
        head = head_class(head_options, shape, config.chunk, features.action_dim)
        policy = Policy(resolved, features, backbone, head)
    if config.adapter and files is None:
        freeze_base(policy, head=adapter_options.head)
        add_adapter(policy, FIRST_ADAPTER, adapter_options, seed)
    return policy


def check_policy(config: PolicyConfig) -> None:
    """Find out, before there are demonstrations or weights, whether the parts can be had and fit each other.

    Raises:
        UnknownNameError: The backbone, the head or an option is unknown.
        ConfigurationError: The parts do not fit each other, or a pretrained model cannot be had.
    """
    backbone_options, head_options, _ = _checked_options(config)
    features = replace(
        _ANY_TASK,
        cameras=tuple(config.cameras or _ANY_TASK.cameras) if config.pixels else (),
        image_size=config.image_size,
        environment_state_dim=_ANY_TASK.environment_state_dim if config.privileged else 0,
        history=config.history,
    )
    with torch.random.fork_rng(devices=[]):
        shape = History(BACKBONES[config.backbone].outline(backbone_options, features), config.history).shape
        HEADS[config.head](head_options, shape, config.chunk, features.action_dim)


_ANY_TASK = PolicyFeatures(action_dim=4, agent_pos_dim=4, cameras=("first", "second"), environment_state_dim=39)


def _checked_options(config: PolicyConfig) -> tuple[Any, Any, AdapterOptions]:
    """Options of the backbone, the head and the adapter."""
    backbone_class, head_class = BACKBONES[config.backbone], HEADS[config.head]
    _check_numbers(config)
    return (
        build_options(f"backbone {config.backbone!r}", backbone_class.Options, config.backbone_options),
        build_options(f"head {config.head!r}", head_class.Options, config.head_options),
        build_options("policy.adapter", AdapterOptions, config.adapter),
    )


def _check_numbers(config: PolicyConfig) -> None:
    last = config.chunk - config.lookback
    if config.chunk < 1 or not 1 <= config.execute <= last or config.lookback < 0:
        back = f" less policy.lookback={config.lookback}" if config.lookback else ""
        raise ConfigurationError(f"policy.execute must be 1 to policy.chunk={config.chunk}{back}, got {config.execute}")
    if config.random_shift < 0:
        raise ConfigurationError(f"policy.random_shift must be at least 0 pixels, got {config.random_shift}")
    if config.history < 1:
        raise ConfigurationError(f"policy.history must be at least 1, got {config.history}")
    if config.temporal_ensemble is not None and config.temporal_ensemble < 0:
        raise ConfigurationError(f"policy.temporal_ensemble must be at least 0, got {config.temporal_ensemble}")
