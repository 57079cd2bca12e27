"""Batches read ahead: the same, in the same order, and a thread that ends with its block."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as some

from vla_cl.training.prefetch import prefetched


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@given(steps=some.lists(some.integers(0, 9), max_size=20), ahead=some.integers(1, 5))
def test_what_comes_out_is_what_a_plain_loop_reads(steps: list[int], ahead: int) -> None:
    read: list[int] = []

    def square(step: int) -> int:
        read.append(step)
        return step * step

    with prefetched(square, steps, ahead) as batches:
        assert list(batches) == [step * step for step in steps]
    assert read == steps
    assert not readers()


def test_the_next_batches_are_read_while_a_step_runs_and_no_more() -> None:
    done = [threading.Event() for _ in range(10)]
    threads: set[str] = set()

    def read(step: int) -> int:
        threads.add(threading.current_thread().name)
        done[step].set()
        return step

    with prefetched(read, range(10), ahead=2) as batches:
        assert next(batches) == 0
        assert done[1].wait(10) and done[2].wait(10), "they are read although nobody asked for them"
        assert not done[3].wait(0.2)
        assert next(batches) == 1
        assert done[3].wait(10)
    assert threads == {"prefetch_0"}


def test_an_exception_comes_out_at_its_step() -> None:
    def read(step: int) -> int:
        if step == 3:
            raise OSError("the disk is gone")
        return step

    seen: list[int] = []
    with pytest.raises(OSError, match="the disk is gone"), prefetched(read, range(10)) as batches:
        for batch in batches:
            seen.append(batch)  # noqa: PERF402
    assert seen == [0, 1, 2]
    assert not readers()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_thread_ends_however_the_block_is_left(error: type[BaseException]) -> None:
    read: list[int] = []
    with pytest.raises(error), prefetched(lambda step: read.append(step) or step, range(1000)) as batches:
        for _ in batches:
            assert readers()
            raise error
    assert not readers()
    assert len(read) <= 4
