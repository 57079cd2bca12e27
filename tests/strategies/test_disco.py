"""DISCO: which slot knowledge goes to, what the server makes of its clients' adapters, how much of each acts."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.strategies.conftest import ACTION_DIM, STATE_DIM, make_dataset, make_policy
from vla_cl.data import ObservationBatch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import adapter_parameters, delta_weights
from vla_cl.strategies import ClientUpdate
from vla_cl.strategies.disco import Disco
from vla_cl.strategies.features import text_features
from vla_cl.strategies.knowledge import Knowledge, activation, mean_text, organised
from vla_cl.tasks import Task, find_task

SIZES = {"width": 32, "layers": 1, "heads": 2}


def angle(degrees: float) -> Tensor:
    return torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])


def known(slot: str, degrees: float, windows: int = 1) -> Knowledge:
    return Knowledge(slot, 3 * angle(degrees), windows)


def slots(arrivals: list[Knowledge]) -> list[str]:
    return [arrival.slot for arrival in arrivals]


def test_alike_texts_share_a_slot_and_others_open_their_own() -> None:
    limit = math.degrees(math.acos(0.9))
    arrivals = [known("a", 0), known("b", limit - 0.1), known("c", limit + 0.1), known("d", 90), known("e", 91)]
    assert slots(organised(arrivals[:1] + arrivals[2:], [], 0.9)) == ["a", "c", "d", "d"]
    assert slots(organised(arrivals[:2], [], 0.9)) == ["a", "a"]


def test_known_slots_come_before_what_arrives_and_the_most_alike_wins() -> None:
    before = [known("first", 0), known("second", 20)]
    assert slots(organised([known("new", 12), known("other", 11)], before, 0.9)) == ["second", "second"]
    assert slots(organised([known("new", 26), known("other", 24)], [known("first", 0)], 0.9)) == ["new", "first"]
    assert slots(organised([known("new", 9)], before, 1.0)) == ["new"]


def test_the_text_of_a_slot_is_the_mean_over_its_windows() -> None:
    joined = Knowledge("a", torch.tensor([1.0, 0.0]), 30).joined(Knowledge("b", torch.tensor([0.0, 1.0]), 10))
    assert joined.slot == "a" and joined.windows == 40
    torch.testing.assert_close(joined.text, torch.tensor([0.75, 0.25]))


def test_activation_is_a_softmax_of_cosines() -> None:
    weights = activation(torch.stack([2 * angle(0), angle(60)]), torch.stack([angle(0), 5 * angle(90)]), 0.05)
    cosines = np.array([[1.0, 0.0], [0.5, math.sqrt(0.75)]]) / 0.05
    expected = np.exp(cosines) / np.exp(cosines).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-4)


def test_the_mean_text_weighs_instructions_by_windows(tmp_path: Path) -> None:
    path = make_dataset(tmp_path, "task", episodes=3).path
    data = WindowDataset(path, 4, privileged=True, instructions=("close the window", "push the puck"))
    every = data.batch(list(range(len(data)))).observation.instruction
    assert len(set(every)) == 2
    expected = text_features(every, torch.device("cpu")).mean(dim=0)
    torch.testing.assert_close(mean_text(data), expected, atol=1e-6, rtol=1e-5)


# --- on a policy ---------------------------------------------------------------------------------------------


def worded(data: WindowDataset, words: str) -> WindowDataset:
    return WindowDataset(data.path, data.chunk, privileged=True, instructions=(words,))


def begun(task: Task, data: WindowDataset, state: Any = None, first_task: str = "adapter") -> ClientUpdate:
    """A client in the middle of a task, its adapter away from what it began with."""
    policy = make_policy(backbone="lowdim_transformer", **SIZES)
    strategy = Disco(Disco.Options(rank=2, first_task=first_task), 0)
    if state is not None:
        strategy.load_state_dict(state)
    strategy.begin_task(task, policy, data)
    return ClientUpdate(policy, strategy, len(data))


def disco(update: ClientUpdate) -> Disco:
    assert isinstance(update.strategy, Disco)
    return update.strategy


def fill(policy: Policy, name: str, value: float) -> None:
    with torch.no_grad():
        for parameter in adapter_parameters(policy, name).values():
            parameter.fill_(value)


def values(policy: Policy, name: str) -> set[float]:
    return {
        round(each, 6)
        for parameter in adapter_parameters(policy, name).values()
        for each in parameter.detach().flatten().tolist()
    }


def seen(*instructions: str) -> ObservationBatch:
    return ObservationBatch(
        instruction=instructions,
        agent_pos=torch.rand(len(instructions), ACTION_DIM),
        pixels={},
        environment_state=torch.rand(len(instructions), STATE_DIM),
    )


def test_clients_with_alike_tasks_average_their_adapters_by_windows_and_others_keep_theirs(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    words = ("close the window", "close the window.", "put the red mug on the plate")
    updates = [begun(task, worded(data, text)) for task, data, text in zip(tasks, datasets, words, strict=True)]
    names = ["slot_window-close", "slot_faucet-close", "slot_push"]
    for update, name, value in zip(updates, names, (1.0, 5.0, 9.0), strict=True):
        fill(update.policy, name, value)
    updates[0].strategy.aggregate(updates)
    first, second = updates[0].windows, updates[1].windows
    mean = round((first * 1.0 + second * 5.0) / (first + second), 5)
    assert {round(each, 5) for each in values(updates[0].policy, names[0])} == {mean}
    assert {round(each, 5) for each in values(updates[1].policy, names[1])} == {mean}
    assert values(updates[2].policy, names[2]) == {9.0}


def test_the_server_ends_with_one_adapter_a_slot_and_knows_every_task(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    words = ("close the window", "close the window.", "put the red mug on the plate")
    data = [worded(each, text) for each, text in zip(datasets, words, strict=True)]
    updates = [begun(task, each) for task, each in zip(tasks, data, strict=True)]
    for update, value in zip(updates, (1.0, 1.0, 9.0), strict=True):
        fill(update.policy, disco(update).own_slot, value)
    updates[0].strategy.aggregate(updates)
    for update, task, each in zip(updates, tasks, data, strict=True):
        update.strategy.end_task(task, update.policy, each)
    updates[0].strategy.aggregate(updates)
    policy, server = updates[0].policy, disco(updates[0])
    assert list(policy.adapters) == server.adapters == ["slot_window-close", "slot_push"]
    assert values(policy, "slot_window-close") == {1.0} and values(policy, "slot_push") == {9.0}
    assert server.owners == {
        "window-close": "slot_window-close",
        "faucet-close": "slot_window-close",
        "push": "slot_push",
    }
    assert not any(parameter.requires_grad for parameter in policy.parameters())
    assert server.slots["slot_window-close"].windows == len(data[0]) + len(data[1])
    torch.testing.assert_close(server.slots["slot_push"].text, mean_text(data[2]))
    assert [disco(update).owners for update in updates[1:]] == [server.owners] * 2


def test_what_a_later_client_learns_in_a_known_slot_reaches_the_server(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    words = ("close the window", "put the red mug on the plate", "open the top drawer")
    data = [worded(each, text) for each, text in zip(datasets, words, strict=True)]
    server = begun(tasks[0], data[0])
    fill(server.policy, "slot_window-close", 1.0)
    server.strategy.end_task(tasks[0], server.policy, data[0])

    updates = []
    for place in (1, 0):  # the first client learns something new, the second goes on in the known slot
        policy, strategy = copy.deepcopy(server.policy), Disco(server.strategy.options, 0)
        strategy.load_state_dict(server.strategy.state_dict())
        strategy.begin_task(tasks[place], policy, data[place])
        fill(policy, strategy.own_slot, 3.0 + place)
        updates.append(ClientUpdate(policy, strategy, len(data[place])))
    for _ in range(2):
        updates[0].strategy.aggregate(updates)
    assert values(updates[0].policy, "slot_faucet-close") == {4.0}
    assert values(updates[1].policy, "slot_window-close") == {3.0}
    for place, update in zip((1, 0), updates, strict=True):
        update.strategy.end_task(tasks[place], update.policy, data[place])
    updates[0].strategy.aggregate(updates)
    assert values(updates[0].policy, "slot_window-close") == {3.0}
    assert values(updates[0].policy, "slot_faucet-close") == {4.0}
    assert disco(updates[0]).slots["slot_window-close"].windows == 2 * len(data[0])
    assert disco(updates[0]).slots["slot_faucet-close"].windows == len(data[1])


def test_a_task_alike_an_earlier_one_trains_its_adapter_on(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    update = begun(tasks[0], worded(datasets[0], "close the window"))
    update.strategy.end_task(tasks[0], update.policy, datasets[0])
    update.strategy.begin_task(tasks[1], update.policy, worded(datasets[1], "close the window."))
    assert list(update.policy.adapters) == ["slot_window-close"]
    trained = {name for name, each in update.policy.named_parameters() if each.requires_grad}
    assert trained == set(adapter_parameters(update.policy, "slot_window-close"))
    update.strategy.end_task(tasks[1], update.policy, datasets[1])
    update.strategy.begin_task(tasks[2], update.policy, worded(datasets[2], "put the red mug on the plate"))
    assert list(update.policy.adapters) == ["slot_window-close", "slot_push"]


def test_what_acts_is_the_sum_of_weighted_products(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    words = ("close the window", "put the red mug on the plate")
    update = begun(tasks[0], worded(datasets[0], words[0]))
    policy, strategy = update.policy, disco(update)
    strategy.end_task(tasks[0], policy, datasets[0])
    strategy.begin_task(tasks[1], policy, worded(datasets[1], words[1]))
    strategy.end_task(tasks[1], policy, datasets[1])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in policy.adapters:
            for parameter in adapter_parameters(policy, name).values():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    asked = "close the mug on the window"
    observation = seen(asked)
    with torch.no_grad(), strategy.acting_pass(observation):
        acted = policy.context(observation).tokens
    text = text_features([asked], torch.device("cpu"))
    cosines = torch.stack([F.cosine_similarity(text[0], slot.text, dim=0) for slot in strategy.slots.values()])
    weights = torch.softmax(cosines / 0.05, dim=0)
    assert 0.01 < float(weights[0]) < 0.99, "both must matter for this to test anything"
    changes = [delta_weights(policy, name) for name in strategy.slots]
    reference = make_policy(backbone="lowdim_transformer", **SIZES)
    with torch.no_grad():
        for module in changes[0]:
            layer = reference.get_submodule(module)
            layer.weight.add_(sum(weight * change[module] for weight, change in zip(weights, changes, strict=True)))
        expected = reference.context(observation).tokens
    torch.testing.assert_close(acted, expected, atol=1e-5, rtol=1e-4)


def test_texts_far_apart_activate_their_own_adapter(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    words = ("close the window", "put the red mug on the plate")
    update = begun(tasks[0], worded(datasets[0], words[0]))
    update.strategy.end_task(tasks[0], update.policy, datasets[0])
    update.strategy.begin_task(tasks[1], update.policy, worded(datasets[1], words[1]))
    update.strategy.end_task(tasks[1], update.policy, datasets[1])
    route = update.strategy.route(seen(*words))
    assert route is not None
    weights = torch.stack([torch.as_tensor(route["slot_window-close"]), torch.as_tensor(route["slot_faucet-close"])])
    assert bool((weights.diagonal() > 0.99).all())
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(2))


def test_first_tasks_train_the_base_and_leave_their_share_to_it(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    words = ("close the window", "put the red mug on the plate")
    data = [worded(each, text) for each, text in zip(datasets, words, strict=False)]
    updates = [begun(task, each, first_task="full") for task, each in zip(tasks, data, strict=False)]
    with torch.no_grad():
        for update, value in zip(updates, (0.0, 1.0), strict=True):
            for parameter in update.policy.head.parameters():
                parameter.fill_(value)
    updates[0].strategy.aggregate(updates)
    share = updates[1].windows / (updates[0].windows + updates[1].windows)
    assert all(torch.allclose(each, torch.full_like(each, share)) for each in updates[0].policy.head.parameters())
    for update, task, each in zip(updates, tasks, data, strict=False):
        update.strategy.end_task(task, update.policy, each)
    updates[0].strategy.aggregate(updates)
    policy, server = updates[0].policy, disco(updates[0])
    assert server.owners == {"window-close": None, "faucet-close": None} and not policy.adapters
    assert server.route(seen(*words)) == {}
    server.begin_task(tasks[2], policy, worded(datasets[2], "close the window."))
    assert list(policy.adapters) == ["slot_window-close"], "a slot of the base gets an adapter when it is met again"


def test_a_loaded_state_acts_alike(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    update = begun(tasks[0], datasets[0])
    update.strategy.end_task(tasks[0], update.policy, datasets[0])
    other = Disco(Disco.Options(rank=2, first_task="adapter"), 0)
    other.load_state_dict(update.strategy.state_dict())
    other.bind(update.policy)
    observation = seen(find_task("push").instruction)
    mine, theirs = update.strategy.route(observation), other.route(observation)
    assert mine is not None and theirs is not None and mine.keys() == theirs.keys() == {"slot_window-close"}


@pytest.mark.parametrize(("key", "value"), [("threshold", 1.5), ("temperature", 0.0)])
def test_unusable_options_are_named(key: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"strategy.{key} must be .*got {value}"):
        Disco(Disco.Options(**{key: value}), 0)
