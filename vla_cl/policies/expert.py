"""The action expert of pi0 and SmolVLA: a small transformer that reads a language model layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import Context, LayersShape
from vla_cl.policies.expert_layer import ExpertLayer, Memory, Rotation
from vla_cl.policies.layers import causal_mask, time_embedding, zeroed


@dataclass(frozen=True)
class Digest:
    """A context as the actions of every draw and every Euler step look at it; computed once.

    Args:
        memories: Of each layer; in joint layers, the proprioception token is their last.
        mask: Which of the context's tokens are real (B, N) bool.
        rotations: Of the actions' positions, in joint layers and in cross layers.
    """

    memories: tuple[Memory, ...]
    mask: Tensor
    rotations: tuple[Rotation, Rotation]


class ActionExpert(nn.Module):
    """One token an action, beside a language model that does not see it. As many layers, heads and numbers a head as
    the language model has; the width is its own.

    "joint" (pi0: Black et al., arXiv 2410.24164, appendix B): in every layer, actions attend to that layer's keys and
    values of the language model and to their own, in one softmax. "interleaved" (SmolVLA: Shukor et al., arXiv
    2506.01844, section 3.1): every other layer, from the second on, only attends to the language model, through own
    projections of its (rotated) keys and values; its queries are rotated by their place among the expert's tokens. The
    layers between are joint, as in the released code and models; the paper describes them as attending to actions
    alone.

    An action token is W2 silu(W1 [Wa a, time embedding]). Proprioception is one token before the actions (pi0): they
    see it, it does not see them, and so it belongs to what is digested once.

    Args:
        shape: The language model's.
        agent_pos_dim: S.
        chunk: Actions.
        action_dim: A.
        width: Of its hidden states, even.
        mlp_ratio: Width inside the MLP over `width`.
        activation: Of the MLP, "gelu_tanh" or "silu".
        attention: "joint" or "interleaved".
        causal: Whether an action sees only the actions before it (SmolVLA), or all (pi0).
        state_token: Whether it takes in proprioception.
        periods: Shortest and longest of the time embedding.
    """

    def __init__(
        self,
        shape: LayersShape,
        agent_pos_dim: int,
        chunk: int,
        action_dim: int,
        *,
        width: int,
        mlp_ratio: float,
        activation: str,
        attention: str,
        causal: bool,
        state_token: bool,
        periods: tuple[float, float],
    ) -> None:
        super().__init__()
        self.chunk, self.width, self.causal, self.periods = chunk, width, causal, periods
        self.sharing = shape.heads // shape.key_value_heads
        self.state = nn.Linear(agent_pos_dim, width) if state_token else None
        self.actions = nn.Linear(action_dim, width)
        self.mix = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(
            ExpertLayer(
                width, round(mlp_ratio * width), activation, shape, cross=attention == "interleaved" and index % 2 == 1
            )
            for index in range(shape.count)
        )
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.output = zeroed(nn.Linear(width, action_dim))

    def prepare(self, context: Context) -> Digest:
        """Digest contexts: keys and values of each layer, and of the proprioception token."""
        tokens, mask, decoder = context.tokens, context.mask, context.decoder
        if decoder is None or len(context.layers) != len(self.layers):
            raise ConfigurationError(f"the action expert needs the keys and values of {len(self.layers)} layers")
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        start, first = mask.sum(dim=1, keepdim=True), torch.zeros(len(mask), 1, dtype=torch.long, device=mask.device)
        memories = tuple(
            layer.remember(keys, values)  # type: ignore[operator]
            for layer, (keys, values) in zip(self.layers, context.layers, strict=True)
        )
        if self.state is not None:
            hidden = self.state(context.agent_pos)[:, None].float()
            rotations = decoder.rotary(start), decoder.rotary(first)
            alone = torch.ones(1, 1, dtype=torch.bool, device=mask.device)
            _, memories = self._run(hidden, Digest(memories, mask, rotations), alone)
            start, first = start + 1, first + 1
        steps = torch.arange(self.chunk, device=mask.device)
        return Digest(memories, mask, (decoder.rotary(start + steps), decoder.rotary(first + steps)))

    def forward(self, digest: Digest, actions: Tensor, times: Tensor) -> Tensor:
        """(B, draws, chunk, A) from noisy actions of that shape and times (B, draws).

        The draws are side by side in one sequence and do not see each other, so that the keys and values of a context
        serve all of them without being copied.
        """
        draws = times.shape[1]
        embedded = time_embedding(times.flatten(), self.width, *self.periods).view(*times.shape, 1, -1)
        embedded = embedded.expand(-1, -1, self.chunk, -1)
        hidden = self.mix(torch.cat([self.actions(actions), embedded], dim=-1)).flatten(1, 2).float()
        among = causal_mask(self.chunk, actions.device)
        if not self.causal:
            among = torch.ones_like(among)
        draw = torch.arange(draws, device=actions.device).repeat_interleave(self.chunk)
        among = among.repeat(draws, draws) & (draw[:, None] == draw)
        joint, cross = ((cosines.repeat(1, draws, 1), sines.repeat(1, draws, 1)) for cosines, sines in digest.rotations)
        hidden, _ = self._run(hidden, Digest(digest.memories, digest.mask, (joint, cross)), among)
        output: Tensor = self.output(self.norm(hidden))
        return output.view(*times.shape, self.chunk, -1)

    def _run(self, hidden: Tensor, digest: Digest, among: Tensor) -> tuple[Tensor, tuple[Memory, ...]]:
        """Hidden states (B, Q, width) before the last norm, and the memories with these tokens, which see what was
        digested and, in joint layers, those of one another that `among` (Q, Q) says.
        """
        batch, count = hidden.shape[:2]
        context = digest.mask[:, None, None].expand(-1, -1, count, -1)
        before = F.pad(context, (0, digest.memories[0][0].shape[2] - context.shape[-1]), value=True)
        joint = torch.cat([before, among.expand(batch, 1, -1, -1)], dim=-1)
        visible = [each.repeat(1, 1, self.sharing, 1) for each in (joint, context)]
        found = []
        for layer, memory in zip(self.layers, digest.memories, strict=True):
            cross = layer.cross
            hidden, seen = layer(hidden, memory, digest.rotations[cross], visible[cross])  # type: ignore[index]
            found.append(seen)
        return hidden, tuple(found)
