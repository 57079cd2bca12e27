"""An OpenGL context without a display: EGL or OSMesa, whichever this machine has.

A process draws through one context, made when it draws first. A forked child makes its own.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from vla_cl.envs.base import RAYCAST
from vla_cl.envs.mujoco_import import INSTALL, import_mujoco
from vla_cl.errors import ConfigurationError, RenderingError

BACKENDS = ("egl", "osmesa")
"""In the order in which "auto" prefers them."""

_DECLINED = ("disabled", "disable", "off", "false", "0")
"""MuJoCo's words in `MUJOCO_GL` for doing without GL."""

_PLATFORM = "PYOPENGL_PLATFORM"
_CHOICE = "MUJOCO_GL"
_LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}
_PROBE_SECONDS = 60


def ensure_current(backend: str = "auto") -> str:
    """Make this process's GL context the current one, creating it first if need be.

    Args:
        backend: "egl", "osmesa", or "auto": what `MUJOCO_GL` names if it is one of these, else what this machine has.

    Returns:
        The backend in use.

    Raises:
        ConfigurationError: No such backend.
        RenderingError: It does not work here, or this process already draws with another.
    """
    global _context
    if backend not in ("auto", *BACKENDS):
        raise ConfigurationError(f"rendering backend {backend!r} is unknown; use auto, egl or osmesa")
    if _context is None:
        _context = _create(_choose() if backend == "auto" else backend)
    if backend not in ("auto", _context.backend):
        raise RenderingError(
            f"this process already draws with {_context.backend} and cannot also draw with {backend}; use one of them"
        )
    _context.ensure_current()
    return _context.backend


def at_release(release: Callable[[], None]) -> None:
    """Have `release` called, with the context current, before a context is freed at the end of the process."""
    _releases.append(release)


@functools.cache
def available_backends() -> tuple[str, ...]:
    """The backends that can draw on this machine. Tried in child processes, which a faulty driver may crash."""
    return tuple(backend for backend in BACKENDS if _is_present(_LIBRARIES[backend]) and _works_in_child(backend))


class _Context:
    """One of MuJoCo's GL contexts, freed once and at the right time."""

    def __init__(self, backend: str) -> None:
        # Mesa draws in the calling thread: scenes this small gain nothing from its threads, and a forked child, which
        # does not inherit them, would wait for them for ever.
        os.environ.setdefault("LP_NUM_THREADS", "0")
        self.backend = backend
        self._current_address: Callable[[], Any]
        module: Any = importlib.import_module(f"mujoco.{backend}")
        # MuJoCo's own class frees itself when collected, which at the interpreter's exit is too late and complains.
        context_class: Any = type("GLContext", (module.GLContext,), {"__del__": lambda self: None})
        self._context = context_class(64, 64)  # the size of a window that nobody sees; images are drawn off-screen
        self._context.make_current()
        if backend == "egl":
            get_current = module.EGL.eglGetCurrentContext
            self._current_address = lambda: current.address if (current := get_current()) else None
        else:
            self._current_address = module.osmesa.OSMesaGetCurrentContext
        self._address = self._current_address()

    def ensure_current(self) -> None:
        """Another renderer in this process may have made its own context the current one."""
        if self._current_address() != self._address:
            self._context.make_current()

    def free(self) -> None:
        self._context.free()


_context: _Context | None = None
_releases: list[Callable[[], None]] = []
_left_to_the_parent: list[_Context | None] = []


def choice() -> str | None:
    """What `MUJOCO_GL` asks for: "egl", "osmesa", or "raycast" where it declines GL ("disabled"); None if nothing."""
    wanted = os.environ.get(_CHOICE, "").lower()
    if wanted in _DECLINED:
        return RAYCAST
    return wanted if wanted in BACKENDS else None


def decline() -> None:
    """Have the processes that this one starts do without GL, which does not work here."""
    os.environ[_CHOICE] = _DECLINED[0]


def _choose() -> str:
    """What `MUJOCO_GL` names; else whichever library is there; of both, EGL if it works.

    It has to be settled without trying here: MuJoCo finds GL functions through whichever library is loaded, so a
    process that has loaded a useless libEGL cannot draw with OSMesa any more.
    """
    wanted = choice()
    if wanted in BACKENDS:
        return wanted
    present = [backend for backend in BACKENDS if _is_present(_LIBRARIES[backend])]
    if present == ["osmesa"] or (len(present) == len(BACKENDS) and not _works_in_child("egl")):
        return "osmesa"
    return "egl"


def _is_present(library: str) -> bool:
    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_LOCAL)
    except OSError:
        return False
    return True


def _create(backend: str) -> _Context:
    import_mujoco()
    environment = {name: os.environ.get(name) for name in (_PLATFORM, _CHOICE)}
    bound_to = environment[_PLATFORM]
    if "OpenGL" in sys.modules and bound_to not in (None, backend):
        raise RenderingError(f"cannot draw with {backend}: PyOpenGL is bound to {_PLATFORM}={bound_to}; use that")
    os.environ.update({_PLATFORM: backend, _CHOICE: backend})  # for PyOpenGL here, and for child processes
    try:
        context = _Context(backend)
    except Exception as error:  # GL libraries fail with anything from AttributeError to GLError
        for name, value in environment.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        remedies = " or ".join(f"`{command}`" for command in INSTALL.values())
        raise RenderingError(f"cannot draw images with {backend}: {error}; run {remedies}") from error
    atexit.register(_release)
    return context


def _release() -> None:
    """Free what was uploaded, then the context, while Python is still whole."""
    global _context
    if _context is None:
        return
    _context.ensure_current()
    for release in _releases:
        release()
    _context.free()
    _context = None


def _forget_parents_context() -> None:
    """In a forked child: the parent's context is neither ours to use nor ours to free."""
    global _context
    if _context is not None and _context.backend == "egl":
        atexit.unregister(sys.modules["mujoco.egl"].EGL.eglTerminate)  # waits for threads that only the parent has
    _left_to_the_parent.append(_context)
    _context = None


os.register_at_fork(after_in_child=_forget_parents_context)


_DRAWS = """
import sys
from importlib import import_module
import mujoco
context = import_module("mujoco." + sys.argv[1]).GLContext(64, 64)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100).free()
context.free()
"""


def _works_in_child(backend: str) -> bool:
    environment = {**os.environ, _CHOICE: backend, _PLATFORM: backend}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        child = subprocess.run(
            [sys.executable, "-c", _DRAWS, backend],
            env=environment,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return child.returncode == 0
