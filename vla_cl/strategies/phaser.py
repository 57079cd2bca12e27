"""Replay that is balanced over the phases of manipulation and drawn where forgetting is seen.

After Chen et al., "PHASER: Phase-Aware and Semantic Experience Replay for Vision-Language-Action Models", 2026 (arXiv
2606.03598).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from vla_cl.data import Batch, ReplayMemory, WindowDataset, concatenate
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.seeding import numpy_generator, torch_generator
from vla_cl.strategies.base import STRATEGIES, Needs, Strategy
from vla_cl.strategies.features import CHUNK
from vla_cl.strategies.phases import SEGMENTATIONS, equal_shares, window_phases
from vla_cl.tasks import Task


@STRATEGIES.decorator("phaser")
class Phaser(Strategy):
    """Phase-balanced replay with sampling by forgetting risk.

    A cell c is one phase of one task. All cells of a task get equal shares of its memory, however short the phase, and
    a replayed row is drawn from cell c with probability

        p_c = exp(r_c / (T max r)) / sum over cells of the same,    r_c = max(0, L_c(now) - L_c(when learned)),

    where L_c is the imitation loss on some of the cell's windows at fixed noise; the risks r are measured again every
    `refresh` steps. The cell most at risk is drawn exp(1 / T) times as often as one without any, so none starves; with
    no risk anywhere the draw is uniform over cells.

    From the paper's abstract: equal memory a phase, phases at change points of the action signal, and priority for
    phases at risk of forgetting. Its risk is a multi-modal estimate of interference, its change points are verified by
    a vision-language model; the mechanics of both are not public to us. Ours: the rise of the loss as the risk, the
    softmax, a fixed number of phases an episode, found by optimal partitioning without a verifier.
    """

    needs: ClassVar[Needs] = Needs(raw_data=True)

    @dataclass
    class Options:
        """Budget, phases and sampling.

        Args:
            fraction: Share of each task's windows that is kept, 0 to 1; used unless `count` is set.
            count: Number of windows kept of each task.
            ratio: Share of each batch that is replayed, 0 to 1.
            phases: Into how many phases an episode is cut.
            segmentation: Where: "change_points" of its actions, or "time" for equally long parts.
            temperature: T, above 0; large values draw uniformly over cells.
            refresh: Steps between two measurements of the risks.
            probes: Windows of a cell on which its loss is measured.
        """

        fraction: float = 0.2
        count: int | None = None
        ratio: float = 0.5
        phases: int = 4
        segmentation: str = "change_points"
        temperature: float = 0.5
        refresh: int = 100
        probes: int = 8

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        for name in ("fraction", "ratio"):
            if not 0.0 <= getattr(options, name) <= 1.0:
                raise ConfigurationError(f"strategy.{name} must be 0 to 1, got {getattr(options, name)}")
        if options.count is not None and options.count < 0:
            raise ConfigurationError(f"strategy.count must be at least 0, got {options.count}")
        for name in ("phases", "refresh", "probes"):
            if getattr(options, name) < 1:
                raise ConfigurationError(f"strategy.{name} must be at least 1, got {getattr(options, name)}")
        if options.segmentation not in SEGMENTATIONS:
            raise ConfigurationError(
                f"strategy.segmentation must be one of {', '.join(SEGMENTATIONS)}, got {options.segmentation!r}"
            )
        if options.temperature <= 0:
            raise ConfigurationError(f"strategy.temperature must be above 0, got {options.temperature}")
        self.memory = ReplayMemory()
        self.phases = np.zeros(0, np.int64)  # of each of the memory's rows
        self.learned: dict[int, float] = {}  # by cell, the loss when its task had been learned
        self.risks: dict[int, float] = {}
        self.step = 0  # of the present task
        self.draws = 0
        self.batch_size = 0

    @property
    def extra_passes(self) -> float:  # type: ignore[override]
        """What measuring the risks costs."""
        measured = len(self.learned) * self.options.probes
        return measured / (self.options.refresh * self.batch_size) if self.batch_size else 0.0

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        self.step = 0
        again = self.memory.rows(data)  # while all of a task is there, its part is out of the memory
        self.memory.drop(again)
        self.phases = np.delete(self.phases, again)
        kept = set(self._cells().tolist())
        self.learned = {cell: loss for cell, loss in self.learned.items() if cell in kept}

    def batch(self, batch: Batch) -> Batch:
        self.batch_size = len(batch)
        replayed = round(self.options.ratio * len(batch))
        if not len(self.memory) or not replayed:
            return batch
        if self.step % self.options.refresh == 0:
            now = self._losses(list(self.learned))
            self.risks = {cell: max(0.0, now[cell] - loss) for cell, loss in self.learned.items()}
        self.step += 1
        generator = numpy_generator(self.seed, "phaser", self.draws)
        self.draws += 1
        return concatenate([batch[: len(batch) - replayed], self.memory.read(self._drawn(replayed, generator))])

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        options = self.options
        phases = window_phases(data, options.phases, options.segmentation)
        budget = round(options.fraction * len(data)) if options.count is None else min(options.count, len(data))
        shares = equal_shares(np.bincount(phases, minlength=options.phases), budget)
        generator = numpy_generator(self.seed, "memory", self.stage)
        kept = [generator.permutation(np.flatnonzero(phases == phase))[:n] for phase, n in enumerate(shares)]
        windows = np.sort(np.concatenate(kept))

        self.memory.put(data, windows)
        self.phases = np.concatenate([self.phases, phases[windows]])
        self.learned |= self._losses(np.unique(self._cells()[self.memory.rows(data)]).tolist())

    def _cells(self) -> NDArray[np.int64]:
        """The cell of each of the memory's rows."""
        return np.asarray(self.memory.owners * self.options.phases + self.phases, np.int64)

    def _drawn(self, n: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """n rows of the memory: cells by their risks, rows of a cell uniformly."""
        cells = list(self.risks)
        probabilities = risk_probabilities(np.array([self.risks[cell] for cell in cells]), self.options.temperature)
        chosen = generator.choice(len(cells), size=n, p=probabilities)
        rows = self._cells()
        return np.array([generator.choice(np.flatnonzero(rows == cells[each])) for each in chosen], np.int64)

    @torch.no_grad()
    def _losses(self, cells: list[int]) -> dict[int, float]:
        """The mean loss on each cell's probes, at the same noise whenever it is asked."""
        head, device, rows = self.policy.head, next(self.policy.parameters()).device, self._cells()
        probes = {
            cell: numpy_generator(self.seed, "probes", cell).permutation(np.flatnonzero(rows == cell)) for cell in cells
        }
        probes = {cell: each[: self.options.probes] for cell, each in probes.items()}
        if not probes:
            return {}
        noise = torch.cat(
            [head.sample_noise(len(each), torch_generator(self.seed, "probes", cell)) for cell, each in probes.items()]
        )
        wanted, losses = np.concatenate(list(probes.values())), []
        for start in range(0, len(wanted), CHUNK):
            batch = self.memory.read(wanted[start : start + CHUNK]).to(device)
            losses.append(self.policy.imitate(batch, noise[start : start + CHUNK].to(device)).loss.float().cpu())
        ends = np.cumsum([len(each) for each in probes.values()])[:-1]
        parts = np.split(torch.cat(losses).numpy(), ends)
        return {cell: float(part.mean()) for cell, part in zip(probes, parts, strict=True)}

    @property
    def memory_bytes(self) -> int:
        return self.memory.bytes

    def state_dict(self) -> dict[str, Any]:
        own = {
            "memory": self.memory.state_dict(),
            "phases": torch.from_numpy(self.phases.copy()),
            "learned": {str(cell): loss for cell, loss in self.learned.items()},
            "risks": {str(cell): risk for cell, risk in self.risks.items()},
            "step": self.step,
            "draws": self.draws,
        }
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.memory.load_state_dict(state["memory"])
        self.phases = state["phases"].cpu().numpy().copy()
        self.learned = {int(cell): float(loss) for cell, loss in state["learned"].items()}
        self.risks = {int(cell): float(risk) for cell, risk in state["risks"].items()}
        self.step, self.draws = int(state["step"]), int(state["draws"])


def risk_probabilities(risks: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """p_c proportional to exp(r_c / (T max r)) for risks (C,) of at least 0; uniform where all are 0."""
    largest = risks.max(initial=0.0)
    weights = np.exp(risks / (temperature * largest) - 1 / temperature) if largest > 0 else np.ones(len(risks))
    return np.asarray(weights / weights.sum(), np.float64)
