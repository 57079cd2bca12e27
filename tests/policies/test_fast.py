"""The fast head: FAST tokens, an end token, and what becomes of sequences that make no sense."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from scipy import fft
from torch import Tensor

from tests.policies.contexts import context_of, shape_of
from tests.policies.language_model import WIDTH, LanguageModel
from vla_cl.data import Batch
from vla_cl.errors import CheckpointError, ConfigurationError
from vla_cl.policies import Context, Policy
from vla_cl.policies.fast import FastHead, FastOptions
from vla_cl.policies.options import build_options
from vla_cl.policies.sequence_decoder import SequenceDecoder
from vla_cl.seeding import torch_generator

CHUNK, ACTIONS, CONTEXT = 6, 2, 16
PLACES = CHUNK * ACTIONS + 1
SMALL = {"width": 32, "layers": 2, "vocabulary": 200}
NONE = torch.empty(4, 0)
NO_PADDING = torch.zeros(4, CHUNK, dtype=torch.bool)


def motions(rows: int, seed: int = 0) -> Tensor:
    start, slope = torch.rand(2, rows, 1, ACTIONS, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return 0.6 * start + 0.4 * slope * torch.linspace(-1, 1, CHUNK)[:, None]


def make_head(prepared: bool = True, **options: object) -> FastHead:
    torch.manual_seed(0)
    head = FastHead(build_options("head", FastOptions, {**SMALL, **options}), shape_of(CONTEXT), CHUNK, ACTIONS)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if prepared:
        head.prepare(motions(300, seed=5), torch.Generator())
    return head


def some_context(rows: int = 4, seed: int = 0) -> Context:
    return context_of(torch.randn(rows, 5, CONTEXT, generator=torch.Generator().manual_seed(seed)))


class Script(SequenceDecoder):
    """Says what is written down: tokens (B, P)."""

    def __init__(self, kinds: int, tokens: Tensor) -> None:
        super().__init__(kinds)
        self.tokens, self.asked = tokens, 0

    def forward(self, context: Context, tokens: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def begin(self, context: Context) -> int:
        return 0

    def step(self, state: int, tokens: Tensor) -> tuple[Tensor, int]:
        self.asked += 1
        return F.one_hot(self.tokens[:, state], self.kinds).float(), state + 1


# --- tokens ------------------------------------------------------------------------------------------------


def test_a_sequence_is_the_chunks_tokens_an_end_and_nothing() -> None:
    head, actions = make_head(), motions(4)
    tokens, past = head.encode(actions)
    assert tokens.shape == past.shape == (4, PLACES)
    for row, sequence in enumerate(head.tokenizer.encode(actions.numpy())):
        length = len(sequence)
        assert tokens[row, :length].tolist() == sequence and tokens[row, length] == head.end == 200
        assert past[row].tolist() == [False] * (length + 1) + [True] * (PLACES - length - 1)
    assert len({int(each) for each in past.sum(1)}) > 1  # they differ in length


def test_the_longest_sequence_fits_by_default() -> None:
    head = make_head()
    wild = torch.randn(50, CHUNK, ACTIONS, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    tokens, past = head.encode(wild)
    assert ((tokens == head.end) & ~past).sum(1).tolist() == [1] * 50


def test_too_long_a_sequence_keeps_its_low_frequencies() -> None:
    head, actions = make_head(max_tokens=5), motions(4)
    whole = make_head().encode(actions)[0]
    tokens, _ = head.encode(actions)
    assert torch.equal(tokens, whole[:, :5])
    head.decoder = Script(201, tokens)
    coefficients = fft.dct(head.sample(some_context(), torch.randn(4, CHUNK, ACTIONS)).numpy(), axis=1, norm="ortho")
    assert abs(coefficients[:, 0] - fft.dct(actions.numpy(), axis=1, norm="ortho")[:, 0]).max() <= 0.05 + 1e-5


def test_the_first_tokenizer_stays() -> None:
    head = make_head()
    before = head.encode(motions(4))[0]
    head.prepare(torch.randn(300, CHUNK, ACTIONS), torch.Generator())
    assert torch.equal(head.encode(motions(4))[0], before)


# --- loss and distillation ---------------------------------------------------------------------------------


def test_the_loss_is_torchs_cross_entropy_over_a_rows_tokens_and_its_end() -> None:
    head, context, actions = make_head(), some_context(), motions(4)
    tokens, past = head.encode(actions)
    scores, _ = head.decoder(context, tokens)
    each = F.cross_entropy(scores.transpose(1, 2), tokens, reduction="none")
    wanted = torch.stack([row[~gone].mean() for row, gone in zip(each, past, strict=True)])
    assert torch.allclose(head.loss(context, actions, NO_PADDING, NONE), wanted, atol=1e-5)


def test_padding_is_encoded_as_the_last_action_before_it() -> None:
    head, context, actions = make_head(), some_context(), motions(4)
    padding = torch.zeros(4, CHUNK, dtype=torch.bool)
    padding[0, 2:], padding[1] = True, True
    held = actions.clone()
    held[0, 2:] = held[0, 1]
    loss = head.loss(context, actions.masked_fill(padding[..., None], torch.nan), padding, NONE)
    assert torch.allclose(loss[[0, 2, 3]], head.loss(context, held, NO_PADDING, NONE)[[0, 2, 3]])
    assert loss[1] == 0


def test_targets_and_predictions_are_zero_past_the_end_and_make_up_the_loss() -> None:
    head, context, actions = make_head(), some_context(), motions(4)
    target, predicted = head.target(actions, NONE), head.predict(context, actions, NONE)
    assert target.shape == predicted.shape == (4, PLACES, 201)
    _, past = head.encode(actions)
    assert torch.equal((target == 0).all(-1), past) and torch.equal((predicted == 0).all(-1), past)
    loss = -(target * predicted.log_softmax(-1)).sum((1, 2)) / (~past).sum(1)
    assert torch.allclose(loss, head.loss(context, actions, NO_PADDING, NONE), atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_divergence_is_the_softened_kl_of_torch_distributions(temperature: float) -> None:
    head, actions = make_head(distillation_temperature=temperature), motions(4)
    predicted = head.predict(some_context(), actions, NONE)
    reference = head.predict(some_context(seed=1), actions, NONE).detach()
    padding = torch.zeros(4, CHUNK, dtype=torch.bool)
    padding[3], padding[2, 1:] = True, True
    teacher, student = (torch.distributions.Categorical(logits=each / temperature) for each in (reference, predicted))
    each = temperature**2 * torch.distributions.kl_divergence(teacher, student)
    _, past = head.encode(actions)
    wanted = [row[~gone].mean() for row, gone in zip(each[:3], past, strict=False)]
    divergence = head.divergence(predicted, reference, padding)
    assert torch.allclose(divergence, torch.stack([*wanted, torch.tensor(0.0)]), atol=1e-4)
    assert (divergence[:3] > 0.01).all()


# --- acting ------------------------------------------------------------------------------------------------


def test_acting_decodes_what_the_decoder_says_up_to_its_end() -> None:
    head, actions = make_head(), motions(4)
    tokens, past = head.encode(actions)
    junk = torch.where(past, torch.randint(0, 200, tokens.shape), tokens)  # it goes on after the end
    head.decoder = Script(201, junk)
    done = head.sample(some_context(), torch.randn(4, CHUNK, ACTIONS))
    assert torch.equal(done, torch.from_numpy(head.tokenizer.decode(head.tokenizer.encode(actions.numpy()))))
    assert head.decoder.asked == int((~past).sum(1).max())  # and all have ended then


def test_senseless_sequences_give_finite_actions() -> None:
    head = make_head()
    for script in (
        torch.full((4, PLACES), head.end),  # ends at once
        torch.full((4, PLACES), 199),  # no such token was learned, or the longest one again and again
        torch.randint(0, 201, (4, PLACES), generator=torch.Generator().manual_seed(0)),
    ):
        head.decoder = Script(201, script)
        actions = head.sample(some_context(), torch.randn(4, CHUNK, ACTIONS))
        assert actions.shape == (4, CHUNK, ACTIONS) and actions.isfinite().all()


def test_greedy_acting_with_remembered_keys_takes_what_teacher_forcing_finds_likeliest() -> None:
    head, context = make_head(), some_context()
    said: list[Tensor] = []
    step = head.decoder.step
    head.decoder.step = lambda state, tokens: (said.append(tokens), step(state, tokens))[1]  # type: ignore[method-assign]
    head.sample(context, torch.randn(4, CHUNK, ACTIONS))
    tokens = torch.stack(said[1:], dim=1)  # what was fed back in
    scores, _ = head.decoder(context, tokens)
    ended = (tokens == head.end).cumsum(1) > 1
    assert torch.equal(scores.argmax(-1)[~ended], tokens[~ended])


def test_the_language_model_goes_on_with_fast_tokens() -> None:
    model = LanguageModel(vocabulary=400)
    built = build_options("head", FastOptions, {"decoder": "backbone", "vocabulary": 200, "skip_tokens": 128})
    head = FastHead(built, model.shape, CHUNK, ACTIONS)
    head.prepare(motions(300, seed=5), torch.Generator())
    inputs, actions = torch.randn(4, 5, WIDTH), motions(4)
    tokens, past = head.encode(actions)
    ids = 400 - 128 - 1 - tokens
    begin = torch.full((4, 1), 400 - 128 - 1 - 201)
    logits = model.whole(inputs, torch.cat([begin, ids[:, :-1]], dim=1))
    each = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
    wanted = torch.stack([row[~gone].mean() for row, gone in zip(each, past, strict=True)])
    assert torch.allclose(head.loss(model.context(inputs), actions, NO_PADDING, NONE), wanted, atol=1e-4)
    assert head.sample(model.context(inputs), torch.randn(4, CHUNK, ACTIONS)).isfinite().all()


def test_it_learns_what_the_context_tells() -> None:
    torch.manual_seed(0)
    head = FastHead(FastOptions(width=64, layers=1, vocabulary=300), shape_of(CONTEXT), CHUNK, ACTIONS)
    told = torch.nn.Linear(ACTIONS, CONTEXT).requires_grad_(False)

    def lesson(rows: int) -> tuple[Context, Tensor]:
        """A level for each dimension, then a ramp down to 0."""
        level = torch.rand(rows, 1, ACTIONS) * 2 - 1
        return context_of(told(level)), level * torch.linspace(1, 0, CHUNK)[:, None]

    head.prepare(lesson(500)[1], torch.Generator())
    optimiser = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for step in range(300):
        context, actions = lesson(64)
        optimiser.param_groups[0]["lr"] = 3e-3 * min(1.0, 2 - step / 150)
        optimiser.zero_grad()
        head.loss(context, actions, torch.zeros(64, CHUNK, dtype=torch.bool), torch.empty(64, 0)).mean().backward()
        optimiser.step()
    context, actions = lesson(64)
    error = (head.sample(context, torch.randn(64, CHUNK, ACTIONS)) - actions).abs().mean()
    assert float(error) < 0.08  # always guessing the middle errs by 0.25


# --- files -------------------------------------------------------------------------------------------------


def test_a_head_without_a_tokenizer_says_so() -> None:
    head = make_head(prepared=False)
    for use in (
        lambda: head.loss(some_context(), motions(4), NO_PADDING, NONE),
        lambda: head.sample(some_context(), torch.randn(4, CHUNK, ACTIONS)),
    ):
        with pytest.raises(ConfigurationError, match="head 'fast' has no tokenizer yet; call prepare"):
            use()


def test_a_policy_and_its_tokenizer_are_saved_together(
    policy_of: Callable[..., Policy], batch_of: Callable[..., Batch], tmp_path: Path
) -> None:
    policy, batch = policy_of(head="fast", head_options=SMALL), batch_of()
    policy.head.prepare(policy.normalise_actions(batch_of(200, seed=1).actions), torch.Generator())
    policy.save_pretrained(tmp_path)
    assert sorted(path.suffix for path in tmp_path.rglob("*") if path.is_file()) == [".json", ".safetensors"]
    loaded = Policy.from_pretrained(tmp_path)
    losses = [each.loss(batch, torch_generator(0)) for each in (policy, loaded)]
    assert torch.equal(*losses)
    assert torch.equal(policy.act(batch.observation, range(6)), loaded.act(batch.observation, range(6)))
    # a policy of the same configuration that was prepared on other chunks takes over the tokenizer with the weights
    other = policy_of(head="fast", head_options=SMALL, seed=1)
    other.head.prepare(policy.normalise_actions(batch_of(200, seed=2).actions), torch.Generator())
    other.loss(batch, torch_generator(0))
    other.load_state_dict(policy.state_dict())
    assert torch.equal(other.loss(batch, torch_generator(0)), losses[0])
    assert torch.equal(copy.deepcopy(policy).loss(batch, torch_generator(0)), losses[0])


def test_damaged_merges_in_the_weights_are_recognised() -> None:
    head = make_head()
    state = {**head.state_dict(), "merges": torch.full_like(head.merges, 10_000)}
    head.load_state_dict(state)
    with pytest.raises(CheckpointError, match="FAST tokenizer is damaged"):
        head.encode(motions(4))


def test_what_does_not_fit_is_told_in_one_line() -> None:
    with pytest.raises(
        ConfigurationError, match="vocabulary of head 'fast' must be at least 99, the number of quantis"
    ):
        make_head(vocabulary=50)
    with pytest.raises(ConfigurationError, match="needs a backbone that is a language model; use decoder='own'"):
        make_head(decoder="backbone")
    for name in ("scale", "largest"):
        with pytest.raises(ConfigurationError, match=f"option {name} of head 'fast' must be positive"):
            make_head(**{name: 0.0})
    with pytest.raises(ConfigurationError, match="max_tokens of head 'fast' must be at least 0, got -1"):
        make_head(max_tokens=-1)
