"""The next batches, read by another thread while a step runs."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def prefetched(read: Callable[[int], T], steps: Iterable[int], ahead: int = 2) -> Iterator[Iterator[T]]:
    """Iterate over `read(step)` for each step, in order, up to `ahead` of them read before they are asked for.

    What comes out is what a plain loop over `read` gives, provided that `read` depends on its step alone. An exception
    of `read` comes out when its step is asked for. The thread ends with the block, however that is left.

    Args:
        read: Called in one other thread, for one step at a time.
        steps: In order.
        ahead: How many are kept ready.
    """
    remaining = iter(steps)
    reader = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    pending = deque(reader.submit(read, step) for step in itertools.islice(remaining, ahead))

    def batches() -> Iterator[T]:
        while pending:
            batch = pending.popleft().result()
            pending.extend(reader.submit(read, step) for step in itertools.islice(remaining, 1))
            yield batch

    try:
        yield batches()
    finally:
        reader.shutdown(wait=True, cancel_futures=True)
