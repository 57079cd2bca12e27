"""Task sequences over Meta-World: Continual World's two, and our own."""

from __future__ import annotations

from vla_cl.tasks.meta_world import TASK_NAMES, meta_world_task
from vla_cl.tasks.suite import Ranges, TaskSuite, register_suite

CW10 = (
    "hammer",
    "push-wall",
    "faucet-close",
    "push-back",
    "stick-pull",
    "handle-press-side",
    "push",
    "shelf-place",
    "window-close",
    "peg-unplug-side",
)
"""Continual World's sequence of ten (Wolczyk et al., "Continual World", NeurIPS 2021, section 4)."""


_WORKSPACE_LOW, _WORKSPACE_HIGH = (-0.3, 0.4, 0.0), (0.3, 0.9, 0.35)  # metres: what the hand and the objects cover
_SNAPSHOT_LOW = (*_WORKSPACE_LOW, 0.0, *(*_WORKSPACE_LOW, -1.0, -1.0, -1.0, -1.0) * 2)
_SNAPSHOT_HIGH = (*_WORKSPACE_HIGH, 1.0, *(*_WORKSPACE_HIGH, 1.0, 1.0, 1.0, 1.0) * 2)

RANGES: Ranges = {
    "action": ((-1.0,) * 4, (1.0,) * 4),
    "agent_pos": ((*_WORKSPACE_LOW, 0.0), (*_WORKSPACE_HIGH, 1.0)),
    "environment_state": (
        (*_SNAPSHOT_LOW, *_SNAPSHOT_LOW, *_WORKSPACE_LOW),
        (*_SNAPSHOT_HIGH, *_SNAPSHOT_HIGH, *_WORKSPACE_HIGH),
    ),
}
"""Meta-World's workspace. The 39 numbers are two snapshots, each of the hand (3), the gripper's opening (1) and two
objects' positions (3) and quaternions (4), and the goal (3)."""


def _suite(name: str, tasks: tuple[str, ...], description: str, **orders: tuple[str, ...]) -> TaskSuite:
    """A suite of Meta-World tasks, which can also be learned backwards."""
    return TaskSuite(
        name=name,
        tasks=tuple(meta_world_task(task) for task in tasks),
        description=description,
        orders={"reversed": tasks[::-1], **orders},
        ranges=RANGES,
    )


@register_suite("cw10")
def cw10() -> TaskSuite:
    """Continual World's ten tasks."""
    return _suite("cw10", CW10, "Continual World's ten tasks in their published order (Wolczyk et al., 2021)")


@register_suite("cw20")
def cw20() -> TaskSuite:
    """Continual World's ten tasks, twice."""
    return _suite(
        "cw20",
        CW10 + CW10,
        "Continual World's ten tasks twice over: is a known task relearned faster? (Wolczyk et al., 2021)",
        paired=tuple(name for name in CW10 for _ in range(2)),
    )


@register_suite("mw3")
def mw3() -> TaskSuite:
    """The quickstart's three tasks."""
    return _suite(
        "mw3",
        ("button-press-topdown", "window-close", "drawer-close"),
        "three short Meta-World tasks with different motions, learnable from pixels in minutes (Yu et al., 2019)",
    )


@register_suite("mw5")
def mw5() -> TaskSuite:
    """Five tasks, quick to learn from low-dimensional state."""
    return _suite(
        "mw5",
        ("window-close", "faucet-close", "handle-press-side", "peg-unplug-side", "push"),
        "five of Continual World's tasks, quick to learn and quick to forget (Wolczyk et al., 2021)",
    )


@register_suite("mw50")
def mw50() -> TaskSuite:
    """All of Meta-World."""
    return _suite("mw50", TASK_NAMES, "all 50 tasks of Meta-World in alphabetical order (Yu et al., 2019)")
