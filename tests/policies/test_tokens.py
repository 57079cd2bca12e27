"""The tokens head against OpenVLA's discretiser, torch's own cross-entropy, and a language model's plain pass."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from torch import Tensor

from tests.policies.contexts import context_of, shape_of
from tests.policies.language_model import VOCABULARY, WIDTH, LanguageModel
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.policies import Context
from vla_cl.policies.options import build_options
from vla_cl.policies.sequence_decoder import SequenceDecoder
from vla_cl.policies.tokens import TokensHead, TokensOptions, draw_token

CHUNK, ACTIONS, CONTEXT = 3, 2, 16
NO_PADDING = torch.zeros(4, CHUNK, dtype=torch.bool)


def make_head(**options: object) -> TokensHead:
    torch.manual_seed(0)
    built = build_options("head", TokensOptions, {"width": 32, "layers": 2, "bins": 16, **options})
    head = TokensHead(built, shape_of(CONTEXT), CHUNK, ACTIONS)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # far from uniform scores
    return head


def actions_of(rows: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(rows, CHUNK, ACTIONS, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def some_context(rows: int = 4, seed: int = 0) -> Context:
    return context_of(torch.randn(rows, 5, CONTEXT, generator=torch.Generator().manual_seed(seed)))


# --- discretisation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bins", [2, 7, 256])
@given(arrays(np.float32, 20, elements=st.floats(-2, 2, width=32)))
@settings(max_examples=100, deadline=None)
def test_tokens_and_centres_are_those_of_openvla(bins: int, actions: np.ndarray) -> None:
    head = make_head(bins=bins)
    edges = np.linspace(-1, 1, bins)
    digits = np.digitize(np.clip(actions, -1.0, 1.0), edges)  # OpenVLA counts from 1
    tokens = head.discretise(torch.from_numpy(actions))
    assert np.array_equal(tokens.numpy() + 1, digits)
    centres = ((edges[:-1] + edges[1:]) / 2)[np.clip(digits - 1, 0, bins - 2)]
    assert np.allclose(head.decode(tokens).numpy(), centres, atol=1e-7)


def test_every_edge_begins_its_bin() -> None:
    head = make_head(bins=256)
    edges = np.linspace(-1, 1, 256)
    around = [np.nextafter(edges.astype(np.float32), np.float32(side)) for side in (-2, 0, 2)]
    values = np.clip(np.concatenate([edges.astype(np.float32), *around]), -1, 1)
    assert np.array_equal(head.discretise(torch.from_numpy(values)).numpy() + 1, np.digitize(values, edges))


@given(st.floats(-1, 1, width=32))
def test_decoding_errs_by_at_most_half_a_bin(action: float) -> None:
    head = make_head(bins=256)
    decoded = head.decode(head.discretise(torch.tensor([action])))
    assert abs(float(decoded) - action) <= 1 / 255 + 1e-6


# --- loss and distillation ---------------------------------------------------------------------------------


class Fixed(SequenceDecoder):
    """Scores written down by hand."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__(scores.shape[-1])
        self.scores = scores

    def forward(self, context: Context, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.scores, self.scores.logsumexp(-1)

    def begin(self, context: Context) -> int:
        return 0

    def step(self, state: int, tokens: Tensor) -> tuple[Tensor, int]:
        return self.scores[:, state], state + 1


def test_the_loss_is_torchs_cross_entropy_over_tokens_that_are_not_padding() -> None:
    head = make_head()
    scores = torch.randn(4, CHUNK * ACTIONS, 16)
    head.decoder = Fixed(scores)
    padding = torch.tensor([[False, False, True], [False, True, True], [False] * 3, [True] * 3])
    actions = actions_of()
    loss = head.loss(some_context(), actions, padding, torch.empty(4, 0))
    each = F.cross_entropy(scores.transpose(1, 2), head.discretise(actions).flatten(1), reduction="none")
    wanted = [row[: kept * ACTIONS].mean() for row, kept in zip(each, (2, 1, 3), strict=False)]
    assert torch.allclose(loss, torch.stack([*wanted, torch.tensor(0.0)]))


def test_the_target_marks_the_tokens_and_the_loss_follows_from_it() -> None:
    head, context, actions, noise = make_head(), some_context(), actions_of(), torch.empty(4, 0)
    target, predicted = head.target(actions, noise), head.predict(context, actions, noise)
    assert target.shape == predicted.shape == (4, CHUNK, ACTIONS * 16)
    tokens = target.view(4, CHUNK, ACTIONS, 16)
    assert torch.equal(tokens.argmax(-1), head.discretise(actions)) and torch.equal(
        tokens.sum(-1), torch.ones(4, CHUNK, ACTIONS)
    )
    likelihood = predicted.view(4, CHUNK, ACTIONS, 16).log_softmax(-1)
    loss = -(tokens * likelihood).sum(-1).mean((1, 2))
    assert torch.allclose(loss, head.loss(context, actions, NO_PADDING, noise), atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_divergence_is_the_softened_kl_of_torch_distributions(temperature: float) -> None:
    head = make_head(distillation_temperature=temperature)
    predicted, reference = torch.randn(2, 4, CHUNK, ACTIONS, 16)
    padding = torch.tensor([[False, False, True], [False, True, True], [False] * 3, [True] * 3])
    divergence = head.divergence(predicted.flatten(2), reference.flatten(2), padding)
    teacher, student = (torch.distributions.Categorical(logits=each / temperature) for each in (reference, predicted))
    each = temperature**2 * torch.distributions.kl_divergence(teacher, student).mean(-1)
    wanted = [row[:kept].mean() for row, kept in zip(each, (2, 1, 3), strict=False)]
    assert torch.allclose(divergence, torch.stack([*wanted, torch.tensor(0.0)]), atol=1e-5)


def test_a_token_depends_on_those_before_it_and_on_no_later_one() -> None:
    head, context, actions = make_head(), some_context(), actions_of()
    predicted = head.predict(context, actions, torch.empty(4, 0)).view(4, CHUNK * ACTIONS, -1)
    for place in range(CHUNK * ACTIONS):
        changed = actions.flatten(1).clone()
        changed[:, place] = -changed[:, place]
        other = head.predict(context, changed.view_as(actions), torch.empty(4, 0)).view(4, CHUNK * ACTIONS, -1)
        assert torch.equal(predicted[:, : place + 1], other[:, : place + 1])
        if place + 1 < CHUNK * ACTIONS:
            assert (predicted[:, place + 1] != other[:, place + 1]).any()


# --- acting ------------------------------------------------------------------------------------------------


def test_greedy_acting_with_remembered_keys_takes_what_teacher_forcing_finds_likeliest() -> None:
    head, context = make_head(bins=256), some_context()
    actions = head.sample(context, torch.randn(4, CHUNK, ACTIONS))
    # fed with what it did, it predicts just that; 1.0 and the bin below it decode alike
    likeliest = head.predict(context, actions, torch.empty(4, 0)).view(4, CHUNK, ACTIONS, 256).argmax(-1)
    assert torch.equal(likeliest.clamp(max=254), head.discretise(actions))
    assert len(actions.unique()) > 4


def test_a_temperature_draws_from_the_softmax() -> None:
    scores = torch.tensor([0.0, 1.0, -1.0, 2.0])
    uniforms = torch.rand(40_000, generator=torch.Generator().manual_seed(0))
    counts = draw_token(scores.expand(40_000, 4), uniforms).bincount(minlength=4)
    assert stats.chisquare(counts.numpy(), (scores.softmax(0) * 40_000).double().numpy(), sum_check=False).pvalue > 0.01


@pytest.mark.parametrize("uniform", [0.0, 1e-7, 0.5, 1 - 6e-8, 1.0])
def test_no_drawn_token_is_impossible(uniform: float) -> None:
    scores = torch.full((1, 256), -torch.inf)
    scores[0, 40:90] = torch.linspace(-3, 3, 50)
    assert 40 <= int(draw_token(scores, torch.tensor([max(uniform, 1e-30)]))) < 90


def test_drawn_actions_follow_the_noise_of_their_row_and_nothing_else() -> None:
    head, noise = make_head(temperature=1.0), torch.randn(4, CHUNK, ACTIONS)
    context = context_of(torch.randn(1, 5, CONTEXT).expand(4, -1, -1))
    actions = head.sample(context, noise)
    assert torch.equal(actions, head.sample(context, noise))
    assert not torch.equal(actions[0], actions[1])
    assert torch.equal(actions[2:3], head.sample(context[2:3], noise[2:3]))
    cold = make_head(temperature=1e-4)
    assert torch.equal(cold.sample(context, noise), make_head().sample(context, noise))


def test_drawn_actions_have_the_models_probabilities() -> None:
    head = make_head(temperature=1.0, bins=4)
    rows = 4000
    context = context_of(torch.randn(1, 2, CONTEXT).expand(rows, -1, -1))
    noise = torch.randn(rows, CHUNK, ACTIONS, generator=torch.Generator().manual_seed(0))
    first = head.discretise(head.sample(context, noise))[:, 0, 0].bincount(minlength=4)[:3].double()
    scores = head.predict(context[:1], torch.zeros(1, CHUNK, ACTIONS), torch.empty(1, 0))[0, 0, :4]
    p = scores.softmax(0).detach().double()
    p = torch.stack([p[0], p[1], p[2] + p[3]])  # the last two decode alike
    assert stats.chisquare(first.numpy(), (p * rows).numpy(), sum_check=False).pvalue > 0.01


def test_a_fresh_head_gives_neighbouring_bins_like_scores() -> None:
    head = TokensHead(TokensOptions(width=128, layers=1, bins=256), shape_of(CONTEXT), CHUNK, ACTIONS)
    scores = head.predict(some_context(64), actions_of(64), torch.empty(64, 0)).view(64, -1, 256)
    scores = (scores - scores.mean(-1, keepdim=True)).detach()
    alike = [float(F.cosine_similarity(scores[..., :-gap], scores[..., gap:], dim=-1).mean()) for gap in (1, 4, 60)]
    assert alike[0] > 0.95 and alike[0] > alike[1] > alike[2] and alike[2] < 0.5


def test_it_learns_what_the_context_tells() -> None:
    torch.manual_seed(0)
    head = TokensHead(TokensOptions(width=64, layers=1), shape_of(CONTEXT), CHUNK, ACTIONS)
    optimiser = torch.optim.AdamW(head.parameters(), lr=3e-3)
    told = torch.nn.Linear(ACTIONS, CONTEXT).requires_grad_(False)

    def lesson(rows: int) -> tuple[Context, Tensor]:
        """A level for each dimension, then a ramp down to 0."""
        level = torch.rand(rows, 1, ACTIONS) * 2 - 1
        return context_of(told(level)), level * torch.linspace(1, 0, CHUNK)[:, None]

    for step in range(300):
        context, actions = lesson(64)
        optimiser.param_groups[0]["lr"] = 3e-3 * min(1.0, 2 - step / 150)
        optimiser.zero_grad()
        head.loss(context, actions, torch.zeros(64, CHUNK, dtype=torch.bool), torch.empty(64, 0)).mean().backward()
        optimiser.step()
    context, actions = lesson(64)
    error = (head.sample(context, torch.randn(64, CHUNK, ACTIONS)) - actions).abs().mean()
    assert float(error) < 0.08  # always guessing the middle errs by 0.25


# --- the backbone's decoder --------------------------------------------------------------------------------


def backbone_head(model: LanguageModel, **options: object) -> TokensHead:
    built = build_options("head", TokensOptions, {"decoder": "backbone", "bins": 256, **options})
    return TokensHead(built, model.shape, CHUNK, ACTIONS)


@pytest.mark.parametrize("skip", [0, 40])
def test_the_language_model_is_trained_over_its_whole_vocabulary_on_openvlas_ids(skip: int) -> None:
    model = LanguageModel()
    head = backbone_head(model, skip_tokens=skip)
    assert head.needs_layers and not list(head.parameters())
    inputs, actions = torch.randn(4, 5, WIDTH), actions_of()
    # OpenVLA: id = vocabulary - np.digitize(...)
    digits = np.digitize(actions.numpy(), np.linspace(-1, 1, 256))
    ids = torch.from_numpy(VOCABULARY - skip - digits).flatten(1)
    begin = torch.full((4, 1), VOCABULARY - skip - 1 - 256)
    logits = model.whole(inputs, torch.cat([begin, ids[:, :-1]], dim=1))
    loss = head.loss(model.context(inputs), actions, NO_PADDING, torch.empty(4, 0))
    assert torch.allclose(loss, F.cross_entropy(logits.transpose(1, 2), ids, reduction="none").mean(1), atol=1e-4)
    predicted = head.predict(model.context(inputs), actions, torch.empty(4, 0)).view(4, CHUNK * ACTIONS, 256)
    wanted = torch.stack([logits[..., VOCABULARY - skip - 1 - token] for token in range(256)], dim=-1)
    assert torch.allclose(predicted, wanted, atol=1e-4)


def test_the_language_model_acts_token_by_token_and_only_in_action_tokens() -> None:
    model = LanguageModel(seed=1)
    head = backbone_head(model, bins=64)
    inputs = torch.randn(4, 5, WIDTH)
    with torch.no_grad():
        tokens = torch.full((4, 1), VOCABULARY - 1 - 64)
        for _ in range(CHUNK * ACTIONS):  # no cache: all of it again for each token
            logits = model.whole(inputs, tokens)[:, -1]
            tokens = torch.cat([tokens, logits[:, -64:].argmax(-1, keepdim=True) + VOCABULARY - 64], dim=1)
        assert (model.whole(inputs, tokens).argmax(-1) < VOCABULARY - 64).any()  # it would have said other things
        model.passes = 0
        actions = head.sample(model.context(inputs), torch.randn(4, CHUNK, ACTIONS))
    assert model.passes == CHUNK * ACTIONS
    assert torch.equal(actions.flatten(1), head.decode(VOCABULARY - 1 - tokens[:, 1:]))


def test_gradients_reach_the_language_model_and_its_context() -> None:
    model = LanguageModel()
    inputs = torch.randn(4, 5, WIDTH, requires_grad=True)
    backbone_head(model).loss(model.context(inputs), actions_of(), NO_PADDING, torch.empty(4, 0)).sum().backward()
    assert inputs.grad is not None and inputs.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.model.parameters())


def test_what_does_not_fit_is_told_in_one_line() -> None:
    with pytest.raises(ConfigurationError, match="needs a backbone that is a language model; use decoder='own'"):
        make_head(decoder="backbone")
    with pytest.raises(
        ConfigurationError, match=r"do not fit into the backbone's vocabulary of 200; use decoder='own'"
    ):
        backbone_head(LanguageModel(vocabulary=200))
    with pytest.raises(UnknownNameError, match="did you mean 'own'"):
        make_head(decoder="owm")
    with pytest.raises(ConfigurationError, match="bins of head 'tokens' must be at least 2, got 1"):
        make_head(bins=1)
    with pytest.raises(ConfigurationError, match="temperature of head 'tokens' must be at least 0, got -1"):
        make_head(temperature=-1.0)
    with pytest.raises(ConfigurationError, match="width of head 'tokens' must be even and a multiple of its 4 heads"):
        make_head(width=30)


def test_a_copy_of_the_head_acts_alike() -> None:
    head, noise = make_head(), torch.randn(4, CHUNK, ACTIONS)
    again = copy.deepcopy(head).train()
    assert torch.equal(head.eval().sample(some_context(), noise), again.sample(some_context(), noise))
