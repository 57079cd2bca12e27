"""Subspaces of inputs: against the singular value decomposition, in both of their forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.strategies.low_rank import small_policy
from vla_cl.data import WindowDataset
from vla_cl.seeding import numpy_generator, torch_generator
from vla_cl.strategies.layer_statistics import input_moments, input_rows, mean_weight_gradients
from vla_cl.strategies.subspaces import Subspace, SubspaceMemory

SIZE = 12


def inputs(rank: int, seed: int = 0, rows: int = 40) -> Tensor:
    """X (SIZE, rows) of some rank, float64, with distinct singular values."""
    generator = torch_generator(seed)
    left = torch.linalg.qr(torch.randn(SIZE, rank, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(rows, rank, generator=generator, dtype=torch.float64))[0]
    return left @ torch.diag(2.0 ** -torch.arange(rank, dtype=torch.float64)) @ right.T


def projector(basis: Tensor) -> Tensor:
    return basis.double() @ basis.double().T


def spanned(subspace: Subspace) -> Tensor:
    return torch.eye(SIZE, dtype=torch.float64) - projector(subspace.complement())


def test_free_directions_are_the_top_singular_vectors_of_what_lies_outside() -> None:
    first, second = inputs(3, 0), inputs(8, 1)
    subspace = Subspace.empty(SIZE).extended(first @ first.T, 1.0)
    assert subspace.dimension == 3
    residual = second - projector(torch.linalg.svd(first)[0][:, :3]) @ second
    expected = torch.linalg.svd(residual)[0][:, :4]
    found = subspace.free_directions(second @ second.T, 4)
    torch.testing.assert_close(projector(found), projector(expected), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.T @ found, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-6)
    assert float((found.T @ first).abs().max()) < 1e-6


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.98, 0.9999])
def test_a_subspace_grows_by_the_fewest_directions_that_hold_the_energy(threshold: float) -> None:
    first, second = inputs(2, 0), inputs(9, 1)
    start = Subspace.empty(SIZE).extended(first @ first.T, 1.0)
    grown = start.extended(second @ second.T, threshold)

    def held(directions: int) -> float:
        known = projector(torch.linalg.svd(first)[0][:, :2])
        added = torch.linalg.svd(second - known @ second)[0][:, :directions]
        return float(((known + projector(added)) @ second).norm() ** 2 / second.norm() ** 2)

    count = grown.dimension - 2
    assert held(count) >= threshold - 1e-9
    assert count == 0 or held(count - 1) < threshold
    assert float((spanned(grown) @ second).norm() ** 2 / second.norm() ** 2) == pytest.approx(held(count), abs=1e-6)


def test_the_smaller_of_a_subspace_and_its_complement_is_kept() -> None:
    subspace, seen = Subspace.empty(SIZE), []
    for seed, rank in enumerate((3, 3, 2, 3)):
        data = inputs(rank, seed)
        subspace = subspace.extended(data @ data.T, 1.0)
        seen.append(data)
        expected = torch.linalg.svd(torch.cat(seen, dim=1))[0][:, : subspace.dimension]
        torch.testing.assert_close(spanned(subspace), projector(expected), rtol=0, atol=1e-5)
        assert subspace.basis.shape[1] == min(subspace.dimension, SIZE - subspace.dimension)
    assert subspace.dimension == 11
    assert not subspace.occupied


def test_where_nothing_is_free_no_direction_is_found() -> None:
    everything = torch.eye(SIZE, dtype=torch.float64)
    nearly = Subspace.empty(SIZE).extended(inputs(10) @ inputs(10).T, 1.0)
    found = nearly.free_directions(everything, 4)
    assert found.shape == (SIZE, 4)
    assert [round(float(column.norm()), 5) for column in found.T] == [1.0, 1.0, 0.0, 0.0]
    full = nearly.extended(everything, 1.0)
    assert full.dimension == SIZE
    assert float(full.free_directions(everything, 4).abs().max()) == 0.0
    assert full.extended(everything, 1.0) is full


def test_a_memory_comes_back_as_it_was() -> None:
    memory, other = SubspaceMemory(), SubspaceMemory()
    for seed in (0, 1, 2):
        data = inputs(4, seed)
        memory.extend({"a": data @ data.T, "b": inputs(2) @ inputs(2).T}, 0.99)
    other.load_state_dict(memory.state_dict())
    moment = inputs(9, 5) @ inputs(9, 5).T
    for layer in ("a", "b", "unknown"):
        assert torch.equal(memory.free_directions(layer, moment, 3), other.free_directions(layer, moment, 3))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 3, bias=False), (2, 4, 5)),
        (nn.Conv1d(3, 4, 3, padding=1, stride=2, bias=False), (2, 3, 9)),
        (nn.Conv2d(3, 4, (3, 2), padding="same", dilation=2, bias=False), (2, 3, 7, 8)),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular", bias=False), (2, 3, 5, 5)),
        (nn.Conv3d(2, 4, 2, bias=False), (1, 2, 4, 4, 4)),
    ],
)
def test_rows_times_the_flattened_weight_are_the_layers_outputs(layer: nn.Module, shape: tuple[int, ...]) -> None:
    seen = torch.randn(shape, generator=torch_generator(0))
    with torch.no_grad():
        outputs = layer(seen)
        weight = layer.weight
        found = input_rows(layer, seen) @ weight.flatten(1).T
    channels_last = outputs if isinstance(layer, nn.Linear) else outputs.movedim(1, -1)
    torch.testing.assert_close(found, channels_last.reshape(-1, len(weight)), rtol=1e-4, atol=1e-5)


def test_moments_are_those_of_what_the_layer_is_called_with(datasets: list[WindowDataset]) -> None:
    policy, data = small_policy(), datasets[0]
    layer = "backbone.layers.0.mlp.1"
    found = input_moments(policy, data, [layer], 10, 3)[layer]
    seen: list[Tensor] = []
    policy.get_submodule("backbone.layers.0.mlp.0").register_forward_hook(lambda *each: seen.append(each[2].detach()))
    windows = sorted(numpy_generator(3).choice(len(data), size=10, replace=False))
    policy.context(data.batch(windows).observation)
    rows = seen[0].flatten(0, 1).double()
    torch.testing.assert_close(found, rows.T @ rows, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_mean_loss_and_leave_no_trace(datasets: list[WindowDataset]) -> None:
    policy, data = small_policy(), datasets[0]
    layers = ["backbone.layers.1.mlp.1", "backbone.layers.0.attention.queries"]
    policy.requires_grad_(False)
    found = mean_weight_gradients(policy, data, layers, 20, 5)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in policy.parameters())
    policy.requires_grad_(True)
    windows = sorted(numpy_generator(5).choice(len(data), size=20, replace=False))
    policy.loss(data.batch(windows), torch_generator(5, 0)).mean().backward()
    for layer in layers:
        torch.testing.assert_close(found[layer], policy.get_submodule(layer).weight.grad, rtol=1e-4, atol=1e-7)
