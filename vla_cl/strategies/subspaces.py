"""Subspaces of a layer's inputs that earlier tasks occupy, and the directions that are left free.

Gradient projection memory: Saha et al., ICLR 2021 (arXiv 2103.09762). Keeping the smaller of a subspace and its
complement: DualGPM, Liang & Li, "Adaptive Plasticity Improvement for Continual Learning", CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ROUNDING = 1e-12
"""Share of the energy below which a direction is rounding error."""


@dataclass(frozen=True)
class Subspace:
    """A subspace of R^D, held as an orthonormal basis of it or of its complement, whichever is smaller.

    Args:
        basis: (D, k), float32, orthonormal columns.
        occupied: Whether these span the subspace; else they span its complement.
    """

    basis: Tensor
    occupied: bool = True

    @staticmethod
    def empty(size: int, device: torch.device | str = "cpu") -> Subspace:
        """Nothing of R^size."""
        return Subspace(torch.zeros(size, 0, device=device))

    @property
    def dimension(self) -> int:
        """Of the subspace."""
        size, columns = self.basis.shape
        return columns if self.occupied else size - columns

    def complement(self) -> Tensor:
        """An orthonormal basis (D, D - dimension), float64, of all that is orthogonal to the subspace."""
        if not self.occupied:
            return self.basis.double()
        orthonormal: Tensor = torch.linalg.qr(self.basis.double(), mode="complete")[0]
        return orthonormal[:, self.dimension :]

    def free_directions(self, moment: Tensor, count: int) -> Tensor:
        """The orthonormal directions (D, count) outside of the subspace along which a second moment (D, D) is largest:
        the top left singular vectors of (I - M M^T) X, where M spans the subspace and the moment is X X^T. Where fewer
        than `count` dimensions are free, the last columns are 0.
        """
        free, vectors, _ = self._residual(moment)
        found = free @ vectors[:, :count]
        return torch.nn.functional.pad(found, (0, count - found.shape[1]))

    def extended(self, moment: Tensor, threshold: float) -> Subspace:
        """The subspace with the fewest further directions, largest first, with which it holds a share `threshold` of a
        second moment's energy: |M M^T X|^2 >= threshold |X|^2, in the Frobenius norm.
        """
        free, vectors, energies = self._residual(moment)
        total = moment.double().trace()
        missing = threshold * total - (total - energies.sum())
        held = torch.cat([energies.new_zeros(1), energies.cumsum(0)])
        count = int((held < missing - _ROUNDING * total).sum())  # how many prefixes hold too little
        count = min(count, int((energies > _ROUNDING * total).sum()))
        if count == 0:
            return self
        left = free @ vectors[:, count:]
        size, dimension = len(self.basis), self.dimension + count
        if dimension > size // 2:
            return Subspace(left.float(), occupied=False)
        return Subspace(torch.cat([self.basis, (free @ vectors[:, :count]).float()], dim=1))

    def _residual(self, moment: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A basis of the complement, and in its coordinates a moment's eigenvectors and eigenvalues, largest first."""
        free = self.complement()
        energies, vectors = torch.linalg.eigh(free.T @ moment.double() @ free)
        return free, vectors.flip(1), energies.flip(0).clamp(min=0)

    def to(self, device: torch.device | str) -> Subspace:
        """The same on another device."""
        return Subspace(self.basis.to(device), self.occupied)


class SubspaceMemory:
    """What is occupied in each of some layers; nothing at first.

    Attributes:
        layers: By the layer's name.
    """

    def __init__(self) -> None:
        self.layers: dict[str, Subspace] = {}

    def free_directions(self, layer: str, moment: Tensor, count: int) -> Tensor:
        """`Subspace.free_directions` in a layer."""
        return self._of(layer, moment).free_directions(moment, count)

    def extend(self, moments: Mapping[str, Tensor], threshold: float) -> None:
        """`Subspace.extended` in layers, each with its second moment."""
        for layer, moment in moments.items():
            self.layers[layer] = self._of(layer, moment).extended(moment, threshold)

    def _of(self, layer: str, moment: Tensor) -> Subspace:
        return self.layers.get(layer, Subspace.empty(len(moment))).to(moment.device)

    def state_dict(self) -> dict[str, Any]:
        """As a strategy keeps it."""
        return {name: {"basis": each.basis, "occupied": each.occupied} for name, each in self.layers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`."""
        self.layers = {name: Subspace(each["basis"], bool(each["occupied"])) for name, each in state.items()}
