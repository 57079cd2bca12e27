"""The parts of probes: results that survive a kill, the line between two states, plain fine-tuning, drift."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.strategies.routed import learn, observations, small_policy, speak, three_tasks
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import delta_weights
from vla_cl.policies.representation import linear_cka
from vla_cl.probes import ProbeOptions
from vla_cl.probes.drift import CONTEXT, representation
from vla_cl.probes.relearning import Relearning, let_train, trained_at_first
from vla_cl.probes.result_file import ResultFile
from vla_cl.probes.scale import WeightPath
from vla_cl.probes.subject import Learned
from vla_cl.strategies import build_strategy, trained_parameters
from vla_cl.training import TrainingOptions, fit


def copied(policy: Policy, folder: Path) -> Policy:
    policy.save_pretrained(folder)
    return Policy.from_pretrained(folder).eval()


# --- results ---------------------------------------------------------------------------------------------------


def test_what_was_found_is_not_measured_again_under_the_same_settings(tmp_path: Path) -> None:
    path, asked = tmp_path / "probes" / "drift.json", []

    def measure() -> dict[str, int]:
        asked.append(1)
        return {"value": len(asked)}

    def killed() -> dict[str, int]:
        raise KeyboardInterrupt

    file = ResultFile(path, {"windows": 8, "scales": (0.0, 1.0)})
    assert file.found("a", measure) == {"value": 1}
    with pytest.raises(KeyboardInterrupt):
        file.found("b", killed)
    again = ResultFile(path, {"windows": 8, "scales": (0.0, 1.0)})
    assert again.found("a", measure) == {"value": 1} and again.found("b", measure) == {"value": 2}
    assert json.loads(path.read_text())["tasks"] == {"a": {"value": 1}, "b": {"value": 2}}
    assert ResultFile(path, {"windows": 9, "scales": (0.0, 1.0)}).found("a", measure) == {"value": 3}


@pytest.mark.parametrize("content", ["", "[1]", '{"settings": 3}', '{"settings": {"windows": 8}}'])
def test_a_file_that_cannot_be_read_is_measured_anew(content: str, tmp_path: Path) -> None:
    path = tmp_path / "drift.json"
    path.write_text(content)
    assert ResultFile(path, {"windows": 8}).tasks == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"share": 1.5}, "share must be above 0, at most 1"),
        ({"steps": (5, 5)}, "steps must ascend from at least 1, got 5, 5"),
        ({"steps": (0, 5)}, "steps must ascend"),
        ({"scales": (0.5, 0.25)}, "scales must ascend from at least 0, got 0.5, 0.25"),
        ({"scales": ()}, "scales must ascend from at least 0, got none"),
        ({"rate": 0.0}, "learning rate must be positive"),
        ({"least_scale": 1.0}, "least scale must lie between 0 and 1"),
        ({"few": 0}, "few steps must be at least 1"),
        ({"windows": 3}, "windows must be at least 4"),
    ],
)
def test_options_that_cannot_be_used_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ProbeOptions(**changes)  # type: ignore[arg-type]


def test_steps_of_recovery_follow_the_runs_unless_they_are_given() -> None:
    assert ProbeOptions().recovery_steps(1200) == (12, 24, 60, 120, 240)
    assert ProbeOptions().recovery_steps(10) == (1, 2)
    assert ProbeOptions(steps=(3, 7)).recovery_steps(1200) == (3, 7)
    assert (ProbeOptions().few_steps(1200), ProbeOptions(few=4).few_steps(1200)) == (60, 4)


# --- the line between two states -------------------------------------------------------------------------------


def test_the_line_ends_in_both_states_and_its_middle_is_their_mean(tmp_path: Path) -> None:
    start, end = small_policy(seed=0), small_policy(seed=1)
    before, after = (dict(copied(each, tmp_path / str(n)).named_parameters()) for n, each in enumerate((start, end)))
    path = WeightPath(start, end)
    for scale in (0.5, 0.0, 1.0):
        path.go_to(scale)
        for name, parameter in end.named_parameters():
            torch.testing.assert_close(parameter, (1 - scale) * before[name] + scale * after[name])


def test_an_adapter_that_came_later_is_scaled_as_its_product(tmp_path: Path) -> None:
    policy, tasks = small_policy(), three_tasks(tmp_path)
    strategy = build_strategy("mrlora", {"rank": 2}, 0)
    learn(strategy, policy, tasks[:1])
    start = copied(policy, tmp_path / "start")
    learn(strategy, policy, tasks[1:2], first=1)
    (adapter,) = strategy.adapters
    speak(policy, adapter)
    full = {layer: delta.detach().clone() for layer, delta in delta_weights(policy, adapter).items()}
    path = WeightPath(start, policy)
    for scale in (0.25, 0.0, 1.0):
        path.go_to(scale)
        for layer, delta in delta_weights(policy, adapter).items():
            torch.testing.assert_close(delta, scale * full[layer])


def test_an_adapter_that_is_in_the_weights_by_now_is_folded_into_the_earlier_state(tmp_path: Path) -> None:
    policy, tasks = small_policy(), three_tasks(tmp_path)
    strategy = build_strategy("mrlora", {"rank": 2, "first_task": "adapter"}, 0)
    learn(strategy, policy, tasks[:1])
    (adapter,) = strategy.adapters
    speak(policy, adapter)
    start = copied(policy, tmp_path / "start")
    strategy.fold_adapter(policy, adapter)
    batch = tasks[0][1].batch(range(4)).observation
    path = WeightPath(start, policy)
    expected = policy.act(batch, range(4))
    path.go_to(0.0)
    torch.testing.assert_close(policy.act(batch, range(4)), expected, atol=1e-5, rtol=1e-5)


# --- fine-tuning -----------------------------------------------------------------------------------------------


def test_relearning_trains_what_the_first_task_trained_and_all_adapters_and_nothing_else(tmp_path: Path) -> None:
    policy, tasks = small_policy(), three_tasks(tmp_path)
    strategy = build_strategy("mrlora", {"rank": 2}, 0)
    learn(strategy, policy, tasks[:1])
    first = trained_at_first(policy)
    first["head.network.slots" if "head.network.slots" in first else next(iter(first))] = False
    learn(strategy, policy, tasks[1:], first=1)
    assert not any(each.requires_grad for each in policy.parameters())
    let_train(policy, first)
    for name, parameter in policy.named_parameters():
        assert parameter.requires_grad == (".lora_" in name or first[name.replace(".base_layer.", ".")]), name


@pytest.mark.parametrize("name", ["sequential", "ewc", "packnet", "tail", "mrlora", "dualprompt", "replay+dmpel"])
def test_relearning_lowers_the_loss_under_what_the_strategy_lets_act_and_leaves_the_strategy_alone(
    name: str, tmp_path: Path
) -> None:
    policy, tasks = small_policy(), three_tasks(tmp_path)
    strategy = build_strategy(name, {}, 0)
    learn(strategy, policy, tasks[:1])
    first = trained_at_first(policy)
    learn(strategy, policy, tasks[1:], first=1)
    let_train(policy, first)
    task, data = tasks[0]
    tuning = Relearning(strategy, task)
    tuning.bind(policy)
    assert trained_parameters(policy, tuning)

    def loss() -> float:
        batch = data.batch(range(len(data)))
        with torch.no_grad(), tuning.training_pass(batch):
            return float(policy.loss(batch, torch.Generator().manual_seed(0)).mean())

    before, state = loss(), str(strategy.state_dict().keys())
    options = TrainingOptions(steps=30, batch_size=8, warmup_steps=0, learning_rate=3e-3, schedule="constant")
    fit(policy, data, tuning, options, seed=0, stage=9)
    assert loss() < before
    assert str(strategy.state_dict().keys()) == state


# --- drift -----------------------------------------------------------------------------------------------------


def test_layers_that_did_not_move_have_drifted_by_nothing(tmp_path: Path) -> None:
    policy, tasks = small_policy(), three_tasks(tmp_path)
    strategy = build_strategy("sequential", {}, 0)
    learn(strategy, policy, tasks[:1])
    task, data = tasks[0]
    former = Learned(0, copied(policy, tmp_path / "former"), build_strategy("sequential", {}, 0))
    now = Learned(1, policy, strategy)
    one, other = (representation(each, task, data, 16, 0) for each in (former, now))
    assert all(torch.equal(one[layer], other[layer]) for layer in one) and CONTEXT in one
    with torch.no_grad():
        policy.backbone.layers[1].mlp[1].weight.add_(torch.randn(policy.backbone.layers[1].mlp[1].weight.shape))  # type: ignore[union-attr, index]
    moved = representation(now, task, data, 16, 0)
    assert torch.equal(one["backbone.layers.0"], moved["backbone.layers.0"])
    assert linear_cka(one["backbone.layers.1"], moved["backbone.layers.1"]) < 0.999
    assert len(one[CONTEXT]) == 16


def test_what_a_strategy_looks_at_to_choose_is_no_part_of_the_representation(tmp_path: Path) -> None:
    policy, tasks = small_policy(), three_tasks(tmp_path)
    strategy = build_strategy("mrlora", {"rank": 2}, 0)
    learn(strategy, policy, tasks)
    task, data = tasks[1]
    (adapter, _) = strategy.adapters
    speak(policy, adapter)
    found = representation(Learned(2, policy, strategy), task, data, 8, 0)
    assert len(found["backbone.layers.0"]) == len(found[CONTEXT]) == 8
    seen, _ = observations(tasks[1:2])
    assert len(seen) == 8
