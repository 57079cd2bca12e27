"""Any backend, with its episodes perturbed."""

from __future__ import annotations

import functools
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.base import EnvironmentSpec, ManipulationEnv
from vla_cl.envs.perturbations.base import Perturbation, read_perturbations
from vla_cl.envs.perturbations.changes import Changes
from vla_cl.errors import SimulationError
from vla_cl.seeding import numpy_generator

_NO_EPISODE = -1
_KEPT_CHANGES = 128


class PerturbedEnv(ManipulationEnv):
    """What is laid over a backend's class so that each of its episodes is perturbed; see `perturbed`.

    A reset is the backend's own, then the perturbations' `start` and `dress`, drawn from the episode's seed. A state is
    the backend's own without what they changed in the looks, then the seed and the actions that are still to take
    effect: enough to make all changes again, here or in another process.
    """

    def __init__(self, spec: EnvironmentSpec, render_mode: str | None = None, **arguments: Any) -> None:
        self._set_perturbations(spec.perturbations)
        self._episode_seed = _NO_EPISODE
        self._late: deque[NDArray[np.float32]] = deque()
        self._changes: OrderedDict[int, Changes] = OrderedDict()
        self._is_built = False
        super().__init__(spec, render_mode, **arguments)
        self._is_built = True

    # --- the contract of `ManipulationEnv` ---------------------------------------------------------------------

    def reset_simulation(self, seed: int) -> None:
        """The backend's initial state of this seed, perturbed."""
        self._leave()
        super().reset_simulation(seed)  # type: ignore[safe-super]
        if not self._is_built:
            return
        self._perturb(seed)
        self._enter(seed, [self.rest_action()] * self._delay)

    def simulate(self, action: NDArray[np.float32]) -> tuple[float, bool, dict[str, Any]]:
        """The backend's control step, with the action of `delay` steps ago."""
        if self._late:
            self._late.append(action.copy())
            action = self._late.popleft()
        return super().simulate(action)  # type: ignore[safe-super]

    def render_camera(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """The backend's image of the present state, through what perturbs pictures."""
        image = super().render_camera(camera, height, width)  # type: ignore[safe-super]
        for each in self._perturbations if self._episode_seed != _NO_EPISODE else ():
            moment = (self._episode_seed, self.elapsed_steps, camera)
            image = each.seen(image, _generator(each, "seen", *moment))
        return image

    def get_state(self) -> NDArray[np.float64]:
        """The backend's state as if its looks were not perturbed, the episode's seed, and the late actions."""
        seed, late = self._episode_seed, [*self._late]
        self._leave()
        state = super().get_state()  # type: ignore[safe-super]
        self._enter(seed, late)
        missing = [np.zeros(self._late_size)] if len(late) < self._delay else late
        return np.concatenate([state, [seed], *(missing if self._delay else [])], dtype=np.float64)

    def set_state(self, state: NDArray[np.float64]) -> None:
        """Restore what `get_state` returned.

        Raises:
            SimulationError: The vector's length is not this task's.
        """
        state = np.asarray(state, np.float64)
        if state.ndim != 1 or len(state) < 1 + self._late_size:
            raise SimulationError(f"a perturbed state of this task is a longer vector, got shape {state.shape}")
        own, (seed, *_), late = np.split(state, [len(state) - 1 - self._late_size, len(state) - self._late_size])
        self._leave()
        if seed != _NO_EPISODE and int(seed) not in self._changes:
            super().reset_simulation(int(seed))  # type: ignore[safe-super]
            self._perturb(int(seed))
            self._leave()
        super().set_state(own)  # type: ignore[safe-super]
        self._enter(int(seed), [*late.astype(np.float32).reshape(self._delay, -1)] if self._delay else [])

    def perturb_by(self, texts: Sequence[str]) -> None:
        """Have the episodes from the next reset on perturbed like this instead. Saved states are of no more use."""
        self._leave()
        self._changes.clear()
        self._set_perturbations(texts)

    # --- inside ------------------------------------------------------------------------------------------------

    def _set_perturbations(self, texts: Sequence[str]) -> None:
        self._perturbations = read_perturbations(texts)
        self._delay = max((each.delay for each in self._perturbations), default=0)

    @property
    def _late_size(self) -> int:
        assert self.action_space.shape is not None
        return int(self._delay * self.action_space.shape[0])

    def _perturb(self, seed: int) -> None:
        """Change the initial state of a seed, in which the world is, and decide on the episode's looks."""
        for each in self._perturbations:
            each.start(self, _generator(each, "start", seed))
        self._changes.pop(seed, None)
        self._changes[seed] = changes = Changes(self)
        for each in self._perturbations:
            each.dress(self, changes, _generator(each, "dress", seed))
        changes.take_back()
        while len(self._changes) > _KEPT_CHANGES:
            self._changes.popitem(last=False)

    def _enter(self, seed: int, late: Sequence[NDArray[np.float32]]) -> None:
        """Put on the looks of an episode."""
        self._episode_seed = seed
        if seed != _NO_EPISODE:
            self._late = deque(late)
            self._changes[seed].apply()

    def _leave(self) -> None:
        """Leave the backend as it is without perturbations."""
        if self._episode_seed in self._changes:
            self._changes[self._episode_seed].take_back()
        self._episode_seed = _NO_EPISODE
        self._late.clear()


@functools.cache
def perturbed(backend: type[ManipulationEnv]) -> type[PerturbedEnv]:
    """A backend's class whose environments perturb every episode as `EnvironmentSpec.perturbations` says.

    Its instances are instances of the backend, so that scripted experts know their way about.
    """
    told = {"__module__": backend.__module__, "__doc__": backend.__doc__}
    return type(f"Perturbed{backend.__name__}", (PerturbedEnv, backend), told)


def _generator(perturbation: Perturbation, moment: str, *keys: int | str) -> np.random.Generator:
    return numpy_generator("perturbation", perturbation.name, moment, *keys)
