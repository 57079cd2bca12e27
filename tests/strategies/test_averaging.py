"""What a server makes of its clients' weights: the formula by hand, what nobody trains, and what only some have."""

from __future__ import annotations

import pytest
import torch

from tests.strategies.conftest import make_policy
from vla_cl.errors import ConfigurationError
from vla_cl.policies.adapters import AdapterOptions, adapter_parameters, add_adapter
from vla_cl.strategies import ClientUpdate, Strategy, build_strategy, trained_bytes
from vla_cl.strategies.averaging import federated_average, weighted_mean


def update(seed: int, windows: int) -> ClientUpdate:
    policy, strategy = make_policy(seed=seed, backbone="lowdim_transformer"), build_strategy("sequential", {}, 0)
    strategy.bind(policy)
    return ClientUpdate(policy, strategy, windows)


def test_the_mean_weighs_each_client_by_its_windows() -> None:
    tensors = [torch.tensor([1.0, -2.0]), torch.tensor([5.0, 2.0]), torch.tensor([0.0, 8.0])]
    expected = torch.tensor([(1 * 1 + 5 * 2 + 0 * 5) / 8, (-2 * 1 + 2 * 2 + 8 * 5) / 8])
    torch.testing.assert_close(weighted_mean(tensors, [1, 2, 5]), expected)


def test_equal_tensors_come_back_as_they_are_whatever_the_weights() -> None:
    tensor = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    assert weighted_mean([tensor, tensor.clone(), tensor.clone()], [1, 3, 7]).equal(tensor)
    assert weighted_mean([tensor], [5]).equal(tensor)


def test_small_steps_survive_the_mean_of_bfloat16() -> None:
    first, second = torch.tensor([1.0]), torch.tensor([1.0078125])  # neighbours in bfloat16
    mean = weighted_mean([first.bfloat16(), second.bfloat16()], [1, 1])
    assert mean.dtype == torch.float32 and mean.item() == pytest.approx(1.00390625)


def test_trained_weights_are_averaged_in_every_client_and_frozen_ones_are_left_alone() -> None:
    updates = [update(0, 30), update(1, 10)]
    for each in updates:
        each.policy.backbone.requires_grad_(False)
    before = [{name: value.clone() for name, value in each.policy.state_dict().items()} for each in updates]
    federated_average(updates)
    for each, own in zip(updates, before, strict=True):
        for name, value in each.policy.state_dict().items():
            if name.startswith("head."):
                torch.testing.assert_close(value, 0.75 * before[0][name] + 0.25 * before[1][name])
            elif name.startswith("backbone."):
                assert value.equal(own[name])


def test_one_client_is_left_as_it_is() -> None:
    alone = update(0, 7)
    before = {name: value.clone() for name, value in alone.policy.state_dict().items()}
    federated_average([alone])
    assert all(value.equal(before[name]) for name, value in alone.policy.state_dict().items())


def test_what_some_clients_train_reaches_those_that_only_have_it_and_counts_by_its_trainers() -> None:
    first, second, third = (update(0, 1) for _ in range(3))
    for each, value in ((first, 1.0), (second, 5.0)):
        each.policy.requires_grad_(False)
        add_adapter(each.policy, "shared", AdapterOptions(rank=2), 0)
        for parameter in adapter_parameters(each.policy, "shared").values():
            torch.nn.init.constant_(parameter, value)
            parameter.requires_grad_(each is second)
    federated_average([first, second, third])
    assert all(bool((each == 5.0).all()) for each in adapter_parameters(first.policy, "shared").values())
    assert not third.policy.adapters


class WithModule(Strategy):
    """A strategy with a module of its own."""

    def __init__(self, value: float, width: int = 3) -> None:
        super().__init__(None, 0)
        self.own = torch.nn.Linear(2, width)
        torch.nn.init.constant_(self.own.weight, value)

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"own": self.own}


def test_modules_of_strategies_are_averaged_too() -> None:
    updates = [ClientUpdate(update(0, 1).policy, WithModule(value), 1) for value in (1.0, 3.0)]
    updates[0].strategy.aggregate(updates)
    assert all(bool((each.strategy.modules()["own"].weight == 2.0).all()) for each in updates)


def test_parameters_of_different_shapes_are_refused_by_name() -> None:
    updates = [ClientUpdate(update(0, 1).policy, WithModule(1.0, width), 1) for width in (3, 4)]
    with pytest.raises(ConfigurationError, match=r"strategy\.own\.weight cannot be averaged .*\(3, 2\) and \(4, 2\)"):
        federated_average(updates)


def test_strategies_that_run_together_are_each_aggregated() -> None:
    updates = []
    for seed in (0, 1):
        policy, strategy = make_policy(seed=seed), build_strategy("sequential+ewc", {}, 0)
        strategy.bind(policy)
        updates.append(ClientUpdate(policy, strategy, 1))
    first = {name: value.clone() for name, value in updates[0].policy.named_parameters()}
    second = dict(updates[1].policy.named_parameters())
    expected = {name: (value + second[name].detach()) / 2 for name, value in first.items()}
    updates[0].strategy.aggregate(updates)
    for name, value in updates[1].policy.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name].detach())


def test_a_message_weighs_what_is_trained() -> None:
    each = update(0, 1)
    each.policy.requires_grad_(False)
    assert trained_bytes(each) == 0
    each.policy.head.requires_grad_(True)
    assert trained_bytes(each) == 4 * sum(parameter.numel() for parameter in each.policy.head.parameters())
