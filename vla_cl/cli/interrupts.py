"""That a Ctrl-C is never lost."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MOMENT = 0.05  # seconds


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """A Ctrl-C that falls into a destructor or the callback of a weak reference is printed and lost: raise it again."""
    usual = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            threading.Timer(_MOMENT, _thread.interrupt_main).start()  # at once it would be lost in this hook, too
        else:
            usual(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = usual
