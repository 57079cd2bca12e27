"""CODA-Prompt: prompts that are weighted sums of components, to which every task adds some of its own.

Smith et al., "CODA-Prompt: COntinual Decomposed Attention-based Prompting for Rehearsal-Free Continual Learning",
CVPR 2023 (arXiv 2211.13218), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_cl.data import ObservationBatch
from vla_cl.errors import ConfigurationError
from vla_cl.policies.soft_prompts import SoftPrompts
from vla_cl.seeding import torch_generator
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.choice import Choice
from vla_cl.strategies.prompting import Layout, PromptStrategy, Query, check_tuning, prefix_layers

KINDS = ("components", "keys", "attention")


@STRATEGIES.decorator("coda_prompt")
class CODAPrompt(PromptStrategy):
    """Each component P_m has a key K_m and an attention vector A_m; the prompt of an observation is

        p = sum_m alpha_m P_m,  alpha_m = cos(q(x) * A_m, K_m)  (eq. 3 to 5, * by element),

    over the components of all tasks so far, of which a task trains its own: the others are frozen. They begin
    orthonormal, to the earlier ones, too (Gram-Schmidt, as in the released code), and the loss can hold them there
    (eq. 7, squared):

        L + lambda (|P P^T - I|^2 + |K K^T - I|^2 + |A A^T - I|^2)

    Every layer has its own P, K and A; half of a prompt are keys, half are values of a prefix. Where a backbone takes
    no prefixes, there is one prompt in the input.

    Ours: the query is the instruction's and the observation's features, joined. Once components span their space, a
    further task's are orthonormal among themselves alone.
    """

    @dataclass
    class Options(PromptStrategy.Options):
        """Those of every prompt strategy, and the components'.

        Args:
            components: That a task adds; 10 in the paper.
            length: Keys, and as many values, of a prompt in each layer; 4 in the paper, which counts both.
            tuning: "prefix" (in the layers), "prompt" (in the input), or "auto": the first where the backbone takes it.
            orthogonality: lambda, at least 0; 0.1 in the paper, 0 in its released code, which begins orthonormal.
        """

        components: int = 10
        length: int = 4
        tuning: str = "auto"
        orthogonality: float = 0.0

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        for key in ("components", "length"):
            if getattr(options, key) < 1:
                raise ConfigurationError(f"strategy.{key} must be at least 1, got {getattr(options, key)}")
        check_tuning(options.tuning)
        if options.orthogonality < 0:
            raise ConfigurationError(f"strategy.orthogonality must be at least 0, got {options.orthogonality}")

    @property
    def layout(self) -> Layout:
        """Where a prompt goes."""
        return Layout(self.options.length, prefix_layers(self.policy, self.options.tuning))

    def grow(self, task: int) -> None:
        """(G, m, numbers of each): G places, m components."""
        places = max(1, len(self.layout.layers))
        sizes = (self.layout.slots // places * self.width, self.query_width, self.query_width)
        for kind, size in zip(KINDS, sizes, strict=True):
            name = f"{kind}_{task}"
            if name in self.pool:
                continue
            generator = torch_generator(self.seed, "components", name)
            empty = torch.zeros(places, 0, size)
            earlier = self.joined(kind, task).detach().cpu() if task else empty
            self.add(name, torch.stack([orthonormal(self.options.components, each, generator) for each in earlier]))

    def trained(self, task: int) -> set[str]:
        return {f"{kind}_{task}" for kind in KINDS}

    def joined(self, kind: str, tasks: int) -> Tensor:
        """What the first so many tasks have added (G, M, numbers)."""
        return torch.cat([self.pool[f"{kind}_{task}"] for task in range(tasks)], dim=1)

    def prompts_for(self, query: Query, task: int | None) -> tuple[SoftPrompts, Tensor | float]:
        components, keys, attention = (self.joined(kind, len(self.tasks)) for kind in KINDS)
        weights = component_weights(query.joined, attention, keys)
        block = torch.einsum("bgm,gmn->bgn", weights, components)
        block = block.reshape(len(weights), self.layout.slots, self.width)
        strength = self.options.orthogonality
        if task is None or not strength:
            return self.layout.arrange(block), 0.0
        deviation = sum((deviation_from_orthonormal(each) for each in (components, keys, attention)), torch.zeros(()))
        return self.layout.arrange(block), strength * deviation

    @torch.no_grad()
    def choice(self, observation: ObservationBatch) -> Choice | None:
        """Of each task, the mean over layers of the sum of its components' |alpha|."""
        if not self.tasks:
            return None
        keys, attention = (self.joined(kind, len(self.tasks)) for kind in KINDS[1:])
        weights = component_weights(self.query(observation).joined, attention, keys).abs().mean(dim=1)
        return Choice.among_tasks(list(self.tasks), weights.view(len(weights), len(self.tasks), -1).sum(dim=2))


def component_weights(query: Tensor, attention: Tensor, keys: Tensor) -> Tensor:
    """alpha (B, G, M) = cos(q * A_m, K_m) of queries (B, Q), attention vectors and keys (G, M, Q)."""
    attended = F.normalize(query[:, None, None] * attention, dim=-1)
    return (attended * F.normalize(keys, dim=-1)).sum(dim=-1)


def deviation_from_orthonormal(vectors: Tensor) -> Tensor:
    """sum_g |V_g V_g^T - I|^2 (squared Frobenius norms) of vectors (G, M, n)."""
    products = vectors @ vectors.transpose(1, 2)
    return (products - torch.eye(products.shape[-1], device=vectors.device)).square().sum()


def orthonormal(count: int, earlier: Tensor, generator: torch.Generator) -> Tensor:
    """Random vectors (count, n) of length 1, orthogonal to each other and to earlier ones (m, n): Gram-Schmidt, by a QR
    decomposition. To each other alone where the earlier ones leave too little room.

    Raises:
        ConfigurationError: There are not so many in n dimensions.
    """
    size = earlier.shape[1]
    if count > size:
        raise ConfigurationError(f"strategy.components must be at most {size}, the numbers of each, got {count}")
    drawn = torch.randn(count, size, generator=generator, dtype=torch.float64)
    if 0 < len(earlier) <= size - count:
        basis, _ = torch.linalg.qr(earlier.double().T)
        drawn -= drawn @ basis @ basis.T
    vectors: Tensor = torch.linalg.qr(drawn.T)[0].T.float().contiguous()
    return vectors
