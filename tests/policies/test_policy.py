"""What a policy promises: who its numbers depend on, and who not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from vla_cl.data import Batch, ObservationBatch, Statistics
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.policies import Policy, PolicyConfig, PolicyFeatures, build_policy

PolicyOf = Callable[..., Policy]
BatchOf = Callable[..., Batch]

KINDS = {
    "compact-flow": {},
    "compact-vit-regression": {
        "head": "regression",
        "backbone_options": {"encoder": "vit", "layers": 1},
        "head_options": {"network": "transformer", "width": 64},
    },
    "lowdim-flow": {"backbone": "lowdim"},
    "lowdim-flow-transformer": {"backbone": "lowdim", "head_options": {"network": "transformer", "width": 64}},
    "lowdim-learned": {"backbone": "lowdim", "backbone_options": {"instruction_encoder": "learned"}},
}


@pytest.fixture(params=KINDS, ids=str)
def policy(request: pytest.FixtureRequest, policy_of: PolicyOf) -> Policy:
    policy = policy_of(**KINDS[request.param])
    return trained_a_little(policy)


def trained_a_little(policy: Policy) -> Policy:
    """Every layer that starts as zero, moved away from it."""
    generator = torch.Generator().manual_seed(1)
    for parameter in policy.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return policy


def test_the_loss_is_one_number_a_window_and_a_function_of_the_generator(policy: Policy, batch_of: BatchOf) -> None:
    batch = batch_of(6)
    first, again, other = (policy.loss(batch, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.shape == (6,)
    assert torch.equal(first, again)
    assert policy.config.head == "regression" or not torch.equal(first, other)


def test_the_output_holds_what_the_loss_was_computed_from(policy: Policy, batch_of: BatchOf) -> None:
    batch = batch_of(6)
    output = policy(batch, torch.Generator().manual_seed(0))
    actions = policy.normalise_actions(batch.actions)
    assert len(output.context) == 6 and output.context.tokens.shape[2] == policy.backbone.shape.width
    assert torch.equal(policy.context(batch.observation).tokens, output.context.tokens)
    assert torch.equal(policy.head.loss(output.context, actions, batch.padding, output.noise), output.loss)
    difference = policy.head.predict(output.context, actions, output.noise) - policy.head.target(actions, output.noise)
    power = 1 if policy.config.head == "regression" else 2
    assert torch.allclose(difference.abs().pow(power).mean(dim=(1, 2)), output.loss, atol=1e-5)


def test_the_gradient_reaches_everything_that_is_trained(policy: Policy, batch_of: BatchOf) -> None:
    policy.loss(batch_of(6), torch.Generator().manual_seed(0)).mean().backward()
    untouched = [name for name, each in policy.named_parameters() if each.grad is None or not each.grad.abs().sum()]
    assert untouched == []


def test_a_rows_actions_do_not_depend_on_its_batch_mates(policy: Policy, batch_of: BatchOf) -> None:
    observation = batch_of(6).observation
    together = policy.act(observation, [10, 11, 12, 13, 14, 15])
    assert together.shape == (6, 8, 4)
    for row in range(6):
        alone = policy.act(observation[[row]], [10 + row])
        assert torch.allclose(alone[0], together[row], atol=1e-5)
    backwards = policy.act(observation[[5, 4, 3, 2, 1, 0]], [15, 14, 13, 12, 11, 10])
    assert torch.allclose(backwards.flip(0), together, atol=1e-5)


def test_a_rows_noise_comes_from_its_own_seed(policy_of: PolicyOf, batch_of: BatchOf) -> None:
    policy = trained_a_little(policy_of(backbone="lowdim"))
    observation = batch_of(1).observation
    same = ObservationBatch(
        observation.instruction * 3,
        observation.agent_pos.expand(3, -1),
        {},
        observation.environment_state.expand(3, -1),
    )
    actions = policy.act(same, [7, 8, 7])
    assert torch.allclose(actions[0], actions[2], atol=1e-5)
    assert not torch.allclose(actions[0], actions[1])


def test_another_instruction_changes_the_actions(policy: Policy, batch_of: BatchOf) -> None:
    observation = batch_of(2, instruction="close the window").observation
    other = replace(observation, instruction=("press the handle sideways",) * 2)
    assert (policy.act(observation, [0, 1]) - policy.act(other, [0, 1])).abs().max() > 1e-3


def test_another_image_changes_the_actions_in_either_camera(policy_of: PolicyOf, batch_of: BatchOf) -> None:
    policy = trained_a_little(policy_of())
    observation = batch_of(2).observation
    for camera in policy.features.cameras:
        dark = replace(observation, pixels={**observation.pixels, camera: torch.zeros(2, 64, 64, 3, dtype=torch.uint8)})
        assert not torch.equal(policy.act(observation, [0, 1]), policy.act(dark, [0, 1]))


def test_the_simulators_state_does_not_reach_a_policy_from_pixels(policy_of: PolicyOf, batch_of: BatchOf) -> None:
    policy = trained_a_little(policy_of())
    observation = batch_of(2).observation
    without = replace(observation, environment_state=None)
    assert torch.equal(policy.act(observation, [0, 1]), policy.act(without, [0, 1]))


def test_actions_stay_in_their_box(policy_of: PolicyOf, batch_of: BatchOf) -> None:
    policy = policy_of(backbone="lowdim", head="regression")
    torch.nn.init.constant_(policy.head.network.output.bias, 5.0)
    assert torch.equal(policy.act(batch_of(2).observation, [0, 1]), torch.ones(2, 8, 4))


def test_training_and_evaluation_mode_act_alike(policy: Policy, batch_of: BatchOf) -> None:
    observation = batch_of(2).observation
    assert torch.equal(policy.train().act(observation, [0, 1]), policy.eval().act(observation, [0, 1]))


def test_acting_in_inference_mode_does_not_spoil_later_training(policy: Policy, batch_of: BatchOf) -> None:
    batch = batch_of(2, instruction=f"an instruction first seen while acting, {policy.config.backbone_options}")
    with torch.inference_mode():
        policy.act(batch.observation, [0, 1])
    policy.loss(batch, torch.Generator().manual_seed(0)).mean().backward()


def test_initial_weights_are_a_function_of_the_seed_and_leave_global_randomness_alone(policy_of: PolicyOf) -> None:
    torch.manual_seed(123)
    first = policy_of(seed=5).state_dict()
    drawn = torch.rand(3)
    torch.manual_seed(456)
    again, other = policy_of(seed=5).state_dict(), policy_of(seed=6).state_dict()
    torch.manual_seed(123)
    assert torch.equal(torch.rand(3), drawn)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_images_are_shifted_in_training_only(policy_of: PolicyOf, batch_of: BatchOf) -> None:
    plain, shifting = policy_of(), policy_of(random_shift=4)
    shifting.load_state_dict(trained_a_little(plain).state_dict())
    batch = batch_of(4)
    assert torch.equal(plain.act(batch.observation, range(4)), shifting.act(batch.observation, range(4)))
    losses = [each.loss(batch, torch.Generator().manual_seed(0)) for each in (plain, shifting, shifting)]
    assert not torch.equal(losses[0], losses[1])
    assert torch.equal(losses[1], losses[2])


def test_bfloat16_autocast_stays_close_and_keeps_a_float32_loss(policy: Policy, batch_of: BatchOf) -> None:
    batch = batch_of(6)
    exact = policy.loss(batch, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = policy.loss(batch, torch.Generator().manual_seed(0))
    assert rounded.dtype == torch.float32
    assert torch.allclose(rounded, exact, rtol=0.05, atol=0.02)


def test_a_policy_without_statistics_says_so(batch_of: BatchOf) -> None:
    config = PolicyConfig(backbone="lowdim", pixels=False, privileged=True)
    policy = build_policy(config, PolicyFeatures(4, 4, environment_state_dim=39), 0)
    assert policy.statistics is None
    with pytest.raises(ConfigurationError, match="call set_statistics first"):
        policy.act(batch_of(1).observation, [0])


def test_normalisation_is_frozen_once_it_is_set(policy_of: PolicyOf) -> None:
    policy = policy_of()
    statistics = policy.statistics
    assert statistics is not None
    policy.set_statistics(statistics)
    other = Statistics.from_ranges({"action": ([-0.5] * 4, [0.5] * 4), "agent_pos": ([0.0] * 4, [1.0] * 4)})
    with pytest.raises(ConfigurationError, match="normalisation is frozen"):
        policy.set_statistics(other)
    assert policy.statistics == statistics


def test_statistics_of_other_sizes_are_refused() -> None:
    policy = build_policy(PolicyConfig(), PolicyFeatures(4, 4, ("corner2",)), 0)
    with pytest.raises(ConfigurationError, match=r"action.mean must have shape \(4,\), got \(7,\)"):
        policy.set_statistics(Statistics.from_ranges({"action": ([-1] * 7, [1] * 7), "agent_pos": ([0] * 4, [1] * 4)}))
    assert policy.statistics is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "compcat"}, "backbone 'compcat' is not registered; did you mean 'compact'"),
        ({"head": "flwo"}, "action head 'flwo' is not registered; did you mean 'flow'"),
        (
            {"backbone_options": {"widht": 3}},
            "option of backbone 'compact' 'widht' is not registered; did you mean 'width'",
        ),
        (
            {"backbone_options": {"encoder": "cnov"}},
            "encoder of backbone 'compact' 'cnov' is not registered; did you mean",
        ),
        ({"normalisation": "minmax"}, "did you mean 'min_max'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        build_policy(PolicyConfig(**changes), PolicyFeatures(4, 4, ("corner2",)), 0)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "features", "message"),
    [
        ({"execute": 9}, PolicyFeatures(4, 4, ("corner2",)), "execute must be 1 to policy.chunk=8, got 9"),
        ({"random_shift": -1}, PolicyFeatures(4, 4, ("corner2",)), "random_shift must be at least 0 pixels, got -1"),
        ({}, PolicyFeatures(4, 4), "sees through cameras; set pixels=true"),
        ({"backbone": "lowdim"}, PolicyFeatures(4, 4), "set privileged=true"),
        ({}, PolicyFeatures(4, 4, ("corner2",), image_size=66), "image_size must be a multiple of 4, got 66"),
        ({"backbone_options": {"heads": 3}}, PolicyFeatures(4, 4, ("corner2",)), "must be a multiple of its 3 heads"),
    ],
)
def test_parts_that_do_not_fit_are_told_in_one_line(
    changes: dict[str, object], features: PolicyFeatures, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        build_policy(PolicyConfig(**changes), features, 0)
    assert "\n" not in str(caught.value)


def test_observations_that_do_not_fit_are_told_in_one_line(policy_of: PolicyOf, batch_of: BatchOf) -> None:
    policy, observation = policy_of(), batch_of(2).observation
    with pytest.raises(ConfigurationError, match="sees through camera 'gripperPOV'; the observation has corner2"):
        policy.act(replace(observation, pixels={"corner2": observation.pixels["corner2"]}), [0, 1])
    small = {camera: images[:, :32] for camera, images in observation.pixels.items()}
    with pytest.raises(ConfigurationError, match=r"uint8 images of 64 x 64 x 3, got torch\.uint8 of 32"):
        policy.act(replace(observation, pixels=small), [0, 1])
    with pytest.raises(ConfigurationError, match="2 rows, 1 seeds"):
        policy.act(observation, [0])
    with pytest.raises(ConfigurationError, match="no adapters"):
        policy.act(observation, [0, 1], route="task 3")
