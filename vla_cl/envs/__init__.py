"""How a task is simulated: one environment contract over several backends."""

from __future__ import annotations

from vla_cl.envs.base import (
    BACKENDS,
    Advance,
    EnvironmentSpec,
    ManipulationEnv,
    Observation,
    ObservationOptions,
    RenderingOptions,
)
from vla_cl.registry import load_plugins

__all__ = [
    "BACKENDS",
    "Advance",
    "EnvironmentSpec",
    "ManipulationEnv",
    "Observation",
    "ObservationOptions",
    "RenderingOptions",
    "make_environment",
]


def make_environment(spec: EnvironmentSpec, render_mode: str | None = None) -> ManipulationEnv:
    """Build the environment that `spec` describes.

    Raises:
        UnknownNameError: No such backend.
        RenderingError: Images were asked for and nothing here can draw them.
    """
    load_plugins(spec.plugins)
    return BACKENDS[spec.backend](spec, render_mode=render_mode, **spec.arguments)  # type: ignore[call-arg]
