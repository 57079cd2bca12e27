"""What perturbations cost, from rollouts on the real simulator to the interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vla_cl.data import ObservationBatch
from vla_cl.envs import EnvironmentPool, ObservationOptions
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.evaluation import (
    Controller,
    EpisodeRow,
    EvaluationOptions,
    check_perturbed,
    count_matrices,
    read_rows,
    rollout,
    write_rows,
)
from vla_cl.evaluation.robustness import costs_of, paired_difference_interval
from vla_cl.tasks import Task


class Expert(Controller):
    """Meta-World's scripted policy for closing a window, from the privileged state."""

    execute = 1

    def __init__(self) -> None:
        self.seen: list[NDArray[np.float32]] = []
        self.told: set[str] = set()

    def act(self, observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
        from metaworld.policies import SawyerWindowCloseV3Policy

        assert observation.environment_state is not None
        states = observation.environment_state.double().numpy()
        self.seen.append(states)
        self.told |= set(observation.instruction)
        return np.stack([SawyerWindowCloseV3Policy().get_action(state) for state in states]).clip(-1, 1)[:, None]


def rows_under(
    perturbations: list[str], task: Task, pool: EnvironmentPool, seen: ObservationOptions, episodes: int = 3
) -> tuple[list[EpisodeRow], Expert]:
    options, expert = EvaluationOptions(episodes=episodes, perturbations=perturbations, videos=0), Expert()
    return rollout(expert, task, stage=0, options=options, observation=seen, pool=pool, seed=0), expert


def test_rows_name_their_perturbation_and_start_in_the_same_states(
    pool: EnvironmentPool, window_close: Task, privileged: ObservationOptions, tmp_path: Path
) -> None:
    plain, _ = rows_under([], window_close, pool, privileged)
    late, _ = rows_under(["action_delay=30"], window_close, pool, privileged)
    again, _ = rows_under([], window_close, pool, privileged)
    assert plain == again
    assert {row.perturbation for row in plain} == {""} and {row.perturbation for row in late} == {"action_delay=30"}
    assert [row.seed for row in plain] == [row.seed for row in late]
    assert all(row.success for row in plain) and all(
        row.steps < other.steps for row, other in zip(plain, late, strict=True)
    )
    write_rows(tmp_path / "rows.jsonl", late)
    assert read_rows(tmp_path / "rows.jsonl") == late
    with pytest.raises(ConfigurationError, match="perturbations 'none' and 'action_delay=30' do not go into one"):
        count_matrices([*plain, *late], ["window-close"])


def test_things_stand_elsewhere_and_the_expert_finds_them(
    pool: EnvironmentPool, window_close: Task, privileged: ObservationOptions
) -> None:
    plain, expert = rows_under([], window_close, pool, privileged)
    moved, other = rows_under(["object_pose:small"], window_close, pool, privileged)
    assert (np.abs(expert.seen[0] - other.seen[0])[:, 4:6].max(axis=1) > 0.005).all()
    assert sum(row.success for row in moved) == sum(row.success for row in plain) == 3


def test_an_instruction_is_a_perturbation_like_others(
    pool: EnvironmentPool, window_close: Task, privileged: ObservationOptions
) -> None:
    rows, expert = rows_under(["instruction:dropped"], replace(window_close, horizon=5), pool, privileged, episodes=1)
    assert expert.told == {""} and rows[0].perturbation == "instruction:dropped"
    options = EvaluationOptions(perturbations=["instruction+camera:small"])
    assert options.told == "held_out" and options.world_perturbations == ("camera:small",)
    with pytest.raises(ConfigurationError, match="both say what the policy is told"):
        EvaluationOptions(instructions="swapped", perturbations=["instruction"])
    with pytest.raises(UnknownNameError, match="did you mean 'camera'"):
        EvaluationOptions(perturbations=["cameras"])


def test_what_a_task_cannot_take_is_refused_before_anything_runs(
    window_close: Task, privileged: ObservationOptions
) -> None:
    wanted = [EvaluationOptions(perturbations=[each]) for each in ("object_pose", "light")]
    with pytest.raises(ConfigurationError, match="'light:medium' changes pictures, and the policy sees none"):
        check_perturbed(window_close, wanted, privileged)
    check_perturbed(window_close, wanted, ObservationOptions())


def outcomes(successes: str, perturbation: str = "", task: str = "push") -> list[EpisodeRow]:
    return [
        EpisodeRow(0, task, "test", episode, episode, "", each == "1", 10, perturbation=perturbation)
        for episode, each in enumerate(successes)
    ]


def test_a_drop_is_counted_in_pairs() -> None:
    plain, light = outcomes("1101") + outcomes("11", task="reach"), outcomes("1011") + outcomes("00", task="reach")
    first, second = costs_of({"unperturbed": plain, "light": light})
    assert (first.drop, first.success_rate, first.tasks) == (0.0, pytest.approx(5 / 6), {"push": 0.75, "reach": 1.0})
    assert second.drop == pytest.approx(1 / 3) and second.tasks == {"push": 0.75, "reach": 0.0}
    assert second.drop_interval == paired_difference_interval(3, 1, 6)
    assert second.episodes == 6 and second.interval[0] < 0.5 < second.interval[1]
    with pytest.raises(ConfigurationError, match="do not start in the initial states"):
        costs_of({"unperturbed": plain, "light": light[1:]})


def test_the_paired_interval_is_agresti_and_mins() -> None:
    # By hand: n = 20, b = 6, c = 2 -> b* = 6.5, c* = 2.5, n* = 22
    difference, variance = 4 / 22, (6.5 + 2.5 - 4**2 / 22) / 22**2
    half = 1.959963985 * variance**0.5
    assert paired_difference_interval(6, 2, 20) == pytest.approx((difference - half, difference + half))
    low, high = paired_difference_interval(0, 0, 20)
    assert low == -high and 0.05 < high < 0.2  # agreement of all pairs is no proof
    assert paired_difference_interval(0, 3, 10) == pytest.approx(
        [-x for x in paired_difference_interval(3, 0, 10)[::-1]]
    )
    for wrong in ((-1, 0, 5), (3, 3, 5), (0, 0, 0)):
        with pytest.raises(ConfigurationError, match="cannot be among"):
            paired_difference_interval(*wrong)


@pytest.mark.parametrize("cells", [(0.1, 0.1), (0.3, 0.05), (0.5, 0.0), (0.02, 0.0)])
def test_the_paired_interval_covers_the_truth_as_often_as_it_says(cells: tuple[float, float]) -> None:
    generator = np.random.default_rng(0)
    lost, won = generator.multinomial(50, [*cells, 1 - sum(cells)], 4000).T[:2]
    intervals = np.array([paired_difference_interval(int(a), int(b), 50) for a, b in zip(lost, won, strict=True)])
    truth = cells[0] - cells[1]
    covered = ((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])).mean()
    assert 0.93 <= covered <= 1.0
