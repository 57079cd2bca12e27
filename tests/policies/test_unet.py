"""The UNet of Diffusion Policy against its published size, and its blocks against plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.policies.contexts import context_of, shape_of
from vla_cl.errors import ConfigurationError
from vla_cl.policies.unet import FLAT_TOKENS, ChunkUNet, ConditionalUNet, FiLMBlock

ACTIONS, CONDITION, WIDTH = 2, 6, 16


def make_unet(levels: int = 3, kernel: int = 5) -> ConditionalUNet:
    torch.manual_seed(0)
    return ConditionalUNet(ACTIONS, CONDITION, width=WIDTH, levels=levels, kernel=kernel)


def make_chunk_unet(tokens: int | None, context: int = 4) -> ChunkUNet:
    torch.manual_seed(0)
    return ChunkUNet(shape_of(context, tokens), ACTIONS, width=WIDTH, levels=2, kernel=3)


def inputs(rows: int, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    actions = torch.randn(rows, chunk, ACTIONS, generator=generator)
    return actions, torch.rand(rows, generator=generator), torch.randn(rows, CONDITION, generator=generator)


def test_it_has_as_many_parameters_as_the_authors_network() -> None:
    with torch.device("meta"):  # two moments of ResNet-18 features and a position: the authors' Push-T from images
        unet = ConditionalUNet(2, 2 * (512 + 2), width=256, levels=3, kernel=5)
    assert f"{sum(each.numel() for each in unet.parameters()):e}" == "7.994727e+07"


@settings(max_examples=25, deadline=None)
@given(chunk=st.integers(1, 40), levels=st.integers(1, 4), kernel=st.sampled_from([1, 3, 5]))
def test_it_answers_chunks_of_any_length(chunk: int, levels: int, kernel: int) -> None:
    actions, times, condition = inputs(2, chunk)
    answer = make_unet(levels, kernel)(actions, times, condition)
    assert answer.shape == actions.shape and answer.isfinite().all()


def test_the_way_up_is_given_what_the_same_level_made_on_the_way_down() -> None:
    unet, made, given_up = make_unet(), [], []
    for down in unet.down:
        down[1].register_forward_hook(lambda block, inputs, output: made.append(output))
    for up in unet.up:
        up[0].register_forward_pre_hook(lambda block, inputs: given_up.append(inputs[0]))
    unet(*inputs(2, 8))
    assert [each.shape[1:] for each in made] == [(WIDTH, 8), (2 * WIDTH, 4), (4 * WIDTH, 2)]
    for whole, skipped in zip(given_up, made[:0:-1], strict=True):
        assert torch.equal(whole[:, skipped.shape[1] :], skipped)


def test_a_chunk_of_another_length_is_filled_up_with_zeros() -> None:
    unet, (actions, times, condition) = make_unet(), inputs(3, 5)
    filled = torch.cat([actions, torch.zeros(3, 3, ACTIONS)], dim=1)
    assert torch.equal(unet(actions, times, condition), unet(filled, times, condition)[:, :5])


def test_a_block_is_two_convolutions_with_a_scale_and_a_shift_between_them() -> None:
    torch.manual_seed(0)
    block = FiLMBlock(3, WIDTH, CONDITION, 3).double()
    for name, parameter in block.named_parameters():
        if name.endswith(("1.weight", "bias")):
            torch.nn.init.normal_(parameter)  # norms that begin as the identity hide mistakes
    hidden, condition = torch.randn(2, 3, 6).double(), torch.randn(2, CONDITION).double()
    weights = {name: value.detach().numpy() for name, value in block.named_parameters()}

    def mish(x: np.ndarray) -> np.ndarray:
        return x * np.tanh(np.log1p(np.exp(x)))

    def convolved(name: str, x: np.ndarray) -> np.ndarray:
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
        windows = np.stack([padded[:, :, start : start + x.shape[2]] for start in range(3)])
        x = np.einsum("ock,kbcl->bol", weights[f"{name}.0.weight"], windows) + weights[f"{name}.0.bias"][:, None]
        groups = x.reshape(len(x), 8, -1)
        centred = groups - groups.mean(-1, keepdims=True)
        normal = (centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5)).reshape(x.shape)
        return mish(normal * weights[f"{name}.1.weight"][:, None] + weights[f"{name}.1.bias"][:, None])

    x = hidden.numpy()
    film = mish(condition.numpy()) @ weights["film.1.weight"].T + weights["film.1.bias"]
    scale, shift = film[:, :WIDTH, None], film[:, WIDTH:, None]
    shortcut = np.einsum("oc,bcl->bol", weights["shortcut.weight"][:, :, 0], x) + weights["shortcut.bias"][:, None]
    expected = convolved("second", convolved("first", x) * scale + shift) + shortcut
    assert np.allclose(block(hidden, condition).detach().numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_actions_time_and_condition_matter(changed: int) -> None:
    unet, given_inputs = make_unet(), list(inputs(3, 8))
    before = unet(*given_inputs)
    given_inputs[changed] = given_inputs[changed] * 0.5
    assert ((unet(*given_inputs) - before).abs().amax(dim=(1, 2)) > 1e-4).all()


def test_every_action_is_told_of_every_other() -> None:
    unet, (actions, times, condition) = make_unet(), inputs(1, 16)
    actions.requires_grad_()
    for step in (0, 15):
        (gradient,) = torch.autograd.grad(unet(actions, times, condition)[:, step].sum(), actions)
        assert (gradient.abs().amax(dim=2) > 0).all()


def test_every_weight_gets_a_gradient() -> None:
    unet = make_unet()
    unet(*inputs(3, 8)).square().sum().backward()
    for name, parameter in unet.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_a_row_does_not_depend_on_the_others() -> None:
    unet, given_inputs = make_unet(), inputs(4, 8)
    alone = torch.cat([unet(*(each[row : row + 1] for each in given_inputs)) for row in range(4)])
    assert torch.allclose(unet(*given_inputs), alone, atol=1e-5)
    assert torch.equal(unet.eval()(*given_inputs), unet.train()(*given_inputs))


def test_short_contexts_are_seen_whole_and_long_ones_or_varying_ones_as_their_mean() -> None:
    for tokens, known in ((FLAT_TOKENS, FLAT_TOKENS), (FLAT_TOKENS + 1, FLAT_TOKENS + 1), (3, None)):
        unet, context = make_chunk_unet(known), torch.randn(2, tokens, 4)
        swapped = torch.allclose(
            unet.prepare(context_of(context)), unet.prepare(context_of(context.flip(1))), atol=1e-5
        )
        assert swapped == (known is None or known > FLAT_TOKENS)


@pytest.mark.parametrize("tokens", [5, None])
def test_padding_of_a_context_is_not_looked_at(tokens: int | None) -> None:
    unet, context, mask = make_chunk_unet(tokens), torch.randn(2, 5, 4), torch.ones(2, 5, dtype=torch.bool)
    mask[:, 3:] = False
    first, second = (context.masked_fill(~mask[:, :, None], filling) for filling in (0.0, 9.0))
    assert torch.equal(unet.prepare(context_of(first, mask)), unet.prepare(context_of(second, mask)))


def test_draws_share_their_rows_context() -> None:
    unet, context = make_chunk_unet(5), torch.randn(3, 5, 4)
    actions, times = torch.randn(3, 2, 8, ACTIONS), torch.rand(3, 2)
    prepared = unet.prepare(context_of(context))
    each = [unet(prepared, actions[:, [draw]], times[:, [draw]]) for draw in range(2)]
    assert torch.allclose(unet(prepared, actions, times), torch.cat(each, dim=1), atol=1e-5)
    assert not torch.allclose(unet(prepared.flip(0), actions, times), torch.cat(each, dim=1), atol=1e-3)


def test_sizes_that_do_not_fit_are_told_in_one_line() -> None:
    with pytest.raises(ConfigurationError, match="width 12 of a UNet must be a multiple of 8"):
        ConditionalUNet(ACTIONS, CONDITION, width=12, levels=2, kernel=3)
    with pytest.raises(ConfigurationError, match="kernel 4 of a UNet must be odd"):
        ConditionalUNet(ACTIONS, CONDITION, width=16, levels=2, kernel=4)
