"""Whether intervals keep their promise: simulated studies whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from vla_cl.evaluation.estimates import Outcomes, estimate

STUDIES = 1000


@dataclass(frozen=True)
class Design:
    """Studies of a method: some sequences on fixed tasks, with Bernoulli episodes.

    The log-odds of a task's success in a sequence is a mean, plus the task's difficulty, plus what that seed gives to
    all tasks, plus what it gives to this one.

    Args:
        sequences: Of a study.
        tasks: Of the suite.
        episodes: Of a cell.
        mean: Log-odds.
        between_tasks: Half of the range of the difficulties.
        between_sequences: Standard deviation of what a seed gives to all.
        within: Standard deviation of what it gives to one.
    """

    sequences: int
    tasks: int
    episodes: int
    mean: float
    between_tasks: float
    between_sequences: float
    within: float

    def rates(self, sequences: int, generator: np.random.Generator) -> NDArray[np.float64]:
        """True success rates (sequences, tasks)."""
        odds = self.mean + np.linspace(-self.between_tasks, self.between_tasks, self.tasks)
        odds = odds + generator.normal(0, self.between_sequences, (sequences, 1))
        rates: NDArray[np.float64] = 1 / (1 + np.exp(-odds - generator.normal(0, self.within, (sequences, self.tasks))))
        return rates

    def study(self, generator: np.random.Generator) -> list[Outcomes]:
        """Outcomes after the last task."""
        rates = self.rates(self.sequences, generator)
        outcomes = np.full((self.sequences, self.tasks + 1, self.tasks, self.episodes), np.nan)
        outcomes[:, -1] = generator.random((self.sequences, self.tasks, self.episodes)) < rates[:, :, None]
        return list(outcomes)


@pytest.mark.parametrize(
    "design",
    [
        pytest.param(Design(3, 5, 20, 0.5, 1.5, 0.5, 0.5), id="three seeds"),
        pytest.param(Design(5, 6, 20, 0.5, 1.0, 1.0, 0.5), id="five seeds that disagree"),
        pytest.param(Design(8, 5, 10, 0.5, 2.0, 0.2, 0.2), id="eight seeds that agree on unequal tasks"),
        pytest.param(Design(5, 5, 20, 2.0, 1.0, 0.7, 0.4), id="a method near its ceiling"),
    ],
)
def test_the_bootstraps_interval_covers_the_truth_in_93_to_97_percent_of_studies(design: Design) -> None:
    truth = design.rates(200_000, np.random.default_rng(0)).mean()
    covered = 0
    for study in range(STUDIES):
        outcomes = design.study(np.random.default_rng([1, study]))
        found = estimate("final_average", outcomes, np.random.default_rng([2, study]), replicates=300)
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.93 * STUDIES <= covered <= 0.97 * STUDIES
