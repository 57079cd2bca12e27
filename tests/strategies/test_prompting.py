"""What holds for every prompt strategy: what is trained, what stays, how it acts, where it works, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.policies.adapted import backbone_policy
from tests.strategies.conftest import make_policy
from tests.strategies.prompted import CLASSES, acted, build, learn, pixel_dataset, small_policy
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.soft_prompts import SoftPrompts
from vla_cl.seeding import torch_generator
from vla_cl.strategies import build_strategy, trained_parameters
from vla_cl.strategies.prompting import Layout, Query, cosines, together
from vla_cl.tasks import Task
from vla_cl.training import TrainingOptions, caches_features, with_cached_features

EVERY = pytest.mark.parametrize("name", CLASSES)


# --- what is trained -------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("first_task", ["full", "prompts"])
def test_the_policy_stays_bit_identical_while_prompts_are_trained(
    name: str, first_task: str, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build(name, first_task=first_task)
    before = {key: value.clone() for key, value in policy.state_dict().items()}
    learn(policy, strategy, tasks[:1], datasets[:1])
    moved = [key for key, value in policy.state_dict().items() if not torch.equal(value, before[key])]
    assert bool(moved) == (first_task == "full")
    frozen = {key: value.clone() for key, value in policy.state_dict().items()}
    pool = {key: value.detach().clone() for key, value in strategy.pool.items()}
    learn(policy, strategy, tasks[1:], datasets[1:], start=1)
    assert all(torch.equal(value, frozen[key]) for key, value in policy.state_dict().items())
    assert any(key not in pool or not torch.equal(value, pool[key]) for key, value in strategy.pool.items())


@pytest.mark.parametrize("name", ["dualprompt", "coda_prompt", "modalprompt"])
def test_what_earlier_tasks_trained_stays_bit_identical(
    name: str, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build(name)
    learn(policy, strategy, tasks[:2], datasets[:2])
    kept = {key: value.detach().clone() for key, value in strategy.pool.items() if key != "general"}
    assert {key[-2:] for key in kept} == {"_0", "_1"}
    learn(policy, strategy, tasks[2:], datasets[2:], start=2)
    assert all(torch.equal(strategy.pool[key], value) for key, value in kept.items())


@EVERY
def test_gradients_reach_the_present_tasks_prompts_alone(
    name: str, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build(name)
    learn(policy, strategy, tasks[:2], datasets[:2])
    strategy.begin_task(tasks[2], policy, datasets[2])
    for parameter in (*policy.parameters(), *strategy.pool.parameters()):
        parameter.grad = None
    batch = datasets[2].batch(range(8))
    with strategy.training_pass(batch):
        output = policy(batch, torch_generator(0))
        (output.loss.mean() + strategy.loss(batch, output)).backward()
    assert all(parameter.grad is None for parameter in policy.parameters())
    reached = {key for key, value in strategy.pool.items() if value.grad is not None and value.grad.any()}
    if name == "l2p":
        assert reached == {key for key in strategy.pool if key.rsplit("_", 1)[1] in {each[-1] for each in reached}}
        assert 2 * strategy.options.select <= len(reached)
    else:
        assert reached == strategy.trained(2)
    assert set(trained_parameters(policy, strategy)) == {f"strategy.prompts.{key}" for key in strategy.trained(2)}


@EVERY
def test_the_head_goes_on_training_where_it_is_asked_to(
    name: str, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build(name, head=True)
    learn(policy, strategy, tasks[:1], datasets[:1])
    frozen = {key: value.clone() for key, value in policy.state_dict().items()}
    learn(policy, strategy, tasks[1:2], datasets[1:2], start=1)
    moved = {key for key, value in policy.state_dict().items() if not torch.equal(value, frozen[key])}
    assert moved and all(key.startswith("head.") for key in moved)


def test_on_a_pretrained_backbone_the_first_task_alone_trains_the_head(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("dualprompt", first_task="head")
    states = [{key: value.clone() for key, value in policy.state_dict().items()}]
    for stage in (0, 1):
        learn(policy, strategy, tasks[stage : stage + 1], datasets[stage : stage + 1], start=stage)
        states.append({key: value.clone() for key, value in policy.state_dict().items()})
    moved = {key for key, value in states[1].items() if not torch.equal(value, states[0][key])}
    assert moved and all(key.startswith("head.") for key in moved)
    assert all(torch.equal(value, states[1][key]) for key, value in states[2].items())


@EVERY
def test_queries_stay_what_they_are_while_prompts_are_trained(
    name: str, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build(name, first_task="prompts")
    learn(policy, strategy, tasks[:1], datasets[:1])
    observation = datasets[0].batch(range(5)).observation
    before = strategy.query(observation)
    with strategy.acting_pass(observation):
        inside = strategy.query(observation)
    learn(policy, strategy, tasks[1:], datasets[1:], start=1)
    for query in (inside, strategy.query(observation)):
        assert torch.equal(query.joined, before.joined)
    torch.testing.assert_close(before.joined.norm(dim=1), torch.ones(5))


@EVERY
def test_prompts_learn_at_their_own_rate(name: str) -> None:
    strategy = build(name, rate=10.0)
    assert strategy.learning_rate("strategy.prompts.prompt_0") == 10.0
    assert strategy.learning_rate("head.network.weight") == strategy.learning_rate("strategy.other.prompts") == 1.0
    assert strategy.learning_rate(f"strategy.{name}_prompts.prompt_0") == 10.0  # as one of several strategies


# --- acting ----------------------------------------------------------------------------------------------------


@EVERY
def test_prompts_change_what_is_done_and_a_restored_state_does_the_same(
    name: str, tasks: list[Task], datasets: list[WindowDataset], tmp_path: Path
) -> None:
    policy, strategy = small_policy(), build(name)
    learn(policy, strategy, tasks, datasets)
    observation = datasets[1].batch(range(4)).observation
    told = acted(policy, strategy, observation)
    assert not torch.allclose(told, policy.act(observation, [0, 1, 2, 3]), atol=1e-6)
    policy.save_pretrained(tmp_path / "policy")
    for data in datasets:
        data.path.unlink()
    other = build(name)
    other.load_state_dict(strategy.state_dict())
    restored = Policy.from_pretrained(tmp_path / "policy").eval()
    other.bind(restored)
    assert torch.equal(acted(restored, other, observation), told)


@EVERY
def test_before_the_first_task_the_policy_acts_as_it_is(name: str, datasets: list[WindowDataset]) -> None:
    policy, strategy = small_policy(), build(name)
    strategy.bind(policy)
    observation = datasets[0].batch(range(2)).observation
    assert torch.equal(acted(policy, strategy, observation), policy.act(observation, [0, 1]))


@pytest.mark.parametrize("name", ["dualprompt", "modalprompt"])
def test_every_row_of_separable_tasks_finds_its_tasks_prompt(
    name: str, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build(name, first_task="prompts", rate=10.0)
    told = [
        WindowDataset(data.path, data.chunk, privileged=True, instructions=[task.instruction])
        for task, data in zip(tasks, datasets, strict=True)
    ]
    learn(policy, strategy, tasks, told, options=TrainingOptions(steps=25, batch_size=8, warmup_steps=0))
    for number, data in enumerate(told):
        query = strategy.query(data.batch(range(len(data))).observation)
        assert strategy.chosen_tasks(query).tolist() == [number] * len(data)


@EVERY
def test_a_row_is_acted_on_as_it_would_be_alone(name: str, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = small_policy(), build(name)
    learn(policy, strategy, tasks, datasets)
    observation = datasets[0].batch(range(3)).observation
    together = acted(policy, strategy, observation)
    for row in range(3):
        with torch.inference_mode(), strategy.acting_pass(observation[row : row + 1]):
            alone = policy.act(observation[row : row + 1], [row])
        torch.testing.assert_close(alone, together[row : row + 1], atol=1e-5, rtol=0)


# --- other backbones -------------------------------------------------------------------------------------------

FROZEN = {"freeze_vision": True, "freeze_connector": True, "freeze_text": True}


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        *((name, backbone) for name in CLASSES for backbone in ("compact", "hf_vlm")),
        ("coda_prompt", "pretrained_compact"),
    ],
)
def test_it_learns_from_pixels(name: str, backbone: str, tasks: list[Task], tmp_path: Path) -> None:
    sizes = {"architecture": "tiny_smolvlm", "prompt_tokens": 16, **FROZEN}
    changes: dict[str, Any] = {"backbone_options": sizes} if backbone == "hf_vlm" else {}
    policy, strategy = backbone_policy(backbone, **changes), build(name, first_task="head")
    options = TrainingOptions(steps=1, batch_size=4, warmup_steps=0)
    datasets = [pixel_dataset(tmp_path, f"task-{seed}", seed) for seed in range(2)]
    strategy.begin_task(tasks[0], policy, datasets[0])
    assert caches_features(policy, options) == (backbone == "pretrained_compact")  # made before prompts come in
    featured = [with_cached_features(policy, data, options) for data in datasets]
    plain = backbone_state(policy)
    learn(policy, strategy, tasks[:2], featured, options=options)
    assert all(torch.equal(value, plain[key]) for key, value in backbone_state(policy).items())
    observation = datasets[0].batch(range(3)).observation
    assert not torch.allclose(acted(policy, strategy, observation), policy.act(observation, [0, 1, 2]), atol=1e-6)


def backbone_state(policy: Policy) -> dict[str, torch.Tensor]:
    """What no pretrained model brings along, such as a token's MLP, is trained along with the first head."""
    return {
        key: value.clone()
        for key, value in policy.backbone.state_dict().items()
        if not key.startswith("proprioception")
    }


# --- mistakes --------------------------------------------------------------------------------------------------


@EVERY
def test_a_policy_without_a_transformer_is_refused(name: str, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy = build(name)
    assert strategy.needs.prompts
    with pytest.raises(ConfigurationError, match="backbone 'lowdim' takes no prompts: it has no transformer layers"):
        strategy.begin_task(tasks[0], make_policy(), datasets[0])


@EVERY
@pytest.mark.parametrize("options", [{"first_task": "none"}, {"rate": 0.0}])
def test_unusable_options_are_named(name: str, options: dict[str, Any]) -> None:
    ((key, value),) = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} must be .*got {value!r}"):
        build(name, **options)


def test_strategies_are_found_by_their_names() -> None:
    assert all(isinstance(build_strategy(name, {}, 0), each) for name, each in CLASSES.items())


# --- parts -----------------------------------------------------------------------------------------------------


def test_a_layout_cuts_a_block_into_keys_and_values_layer_by_layer() -> None:
    layout = Layout(2, (0, 2))
    block = torch.arange(8.0).view(1, 8, 1).expand(3, 8, 5)
    prompts = layout.arrange(block)
    assert layout.slots == 8 and prompts.tokens is None
    cut = {
        layer: (keys[0, :, 0].tolist(), values[0, :, 0].tolist()) for layer, (keys, values) in prompts.prefixes.items()
    }
    assert cut == {0: ([0.0, 1.0], [2.0, 3.0]), 2: ([4.0, 5.0], [6.0, 7.0])}
    assert Layout(4).slots == 4 and Layout(4).arrange(block[:, :4]).tokens is not None


def test_prompts_in_the_same_place_stand_side_by_side() -> None:
    one, two = torch.zeros(1, 2, 3), torch.ones(1, 1, 3)
    joined = together(SoftPrompts(one, {0: (one, one)}), SoftPrompts(two, {0: (two, two), 1: (two, two)}))
    expected = torch.cat([one, two], dim=1)
    assert joined.tokens is not None
    for part in (joined.tokens, *joined.prefixes[0]):
        assert torch.equal(part, expected)
    assert torch.equal(joined.prefixes[1][0], two)
    alone = together(SoftPrompts(), SoftPrompts(two))
    assert alone.tokens is two


def test_a_joined_query_weighs_text_and_observation_alike() -> None:
    text, seen = torch.eye(384)[:2], torch.eye(8)[[0, 0]]
    joined = Query(text, seen).joined
    torch.testing.assert_close(cosines(joined, joined), torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
