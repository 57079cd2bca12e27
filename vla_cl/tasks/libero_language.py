"""What LIBERO's tasks are told: the instruction that a file's name holds, and other ways to say it.

The benchmark's instructions are one or two clauses, each a verb, a thing and often a place ("pick up the book and place
it on the cabinet shelf"). Other ways to say them change the verbs, never the things and places, so that what is asked
for stays the same; the paraphrases are ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SCENE = re.compile(r"[A-Z_]+SCENE\d+_")
_VERBS = "pick up|put|place|open|close|turn on|turn off|push|stack"
_CLAUSE = re.compile(rf"({_VERBS}) (.+)")
_AND = re.compile(rf" and (?=(?:{_VERBS}) )")


@dataclass(frozen=True)
class _Ways:
    """Ways to say a clause: `{}` is all that follows its verb."""

    training: tuple[str, str, str, str]
    held_out: tuple[str, str]


_LAID_DOWN = ("set {}", "lay {}", "leave {}")
_WAYS = {
    "pick up": _Ways(("grasp {}", "take {}", "grab {}", "lift {}"), ("get hold of {}", "seize {}")),
    "put": _Ways(("place {}", *_LAID_DOWN), ("deposit {}", "position {}")),
    "place": _Ways(("put {}", *_LAID_DOWN), ("deposit {}", "position {}")),
    "open": _Ways(
        ("pull open {}", "pull {} open", "get {} open", "bring {} to where it is open"),
        ("make sure that {} is open", "have {} stand open"),
    ),
    "close": _Ways(
        ("shut {}", "push {} shut", "push {} closed", "get {} closed"),
        ("make sure that {} is closed", "see that {} is shut"),
    ),
    "turn on": _Ways(
        ("switch on {}", "switch {} on", "turn {} on", "start {}"), ("power up {}", "make sure that {} is on")
    ),
    "turn off": _Ways(
        ("switch off {}", "switch {} off", "turn {} off", "shut off {}"), ("power down {}", "make sure that {} is off")
    ),
    "push": _Ways(("slide {}", "shove {}", "move {}", "shift {}"), ("nudge {}", "drive {}")),
    "stack": _Ways(("put {}", "place {}", "set {}", "pile {}"), ("rest {}", "balance {}")),
}
_JOINED = (" and ", ", then ", " and ", ", then ")
_JOINED_HELD_OUT = (" and then ", ", and after that ")


def instruction_of(problem: str) -> str:
    """The instruction that a file's name holds, by the benchmark's rule: underscores are spaces, and where the name
    starts with its scene in capitals, that is left out.

    Args:
        problem: Name of a task file without `.bddl` ("KITCHEN_SCENE7_open_the_microwave").
    """
    return _SCENE.sub("", problem, count=1).replace("_", " ")


def paraphrases_of(instruction: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Other ways to say an instruction: four for training, and two that are held out.

    Both are empty where a clause has a verb that the benchmark's tasks do not use.
    """
    clauses = [_CLAUSE.fullmatch(clause) for clause in _AND.split(instruction)]
    said = [(_WAYS[clause[1]], clause[2]) for clause in clauses if clause]
    if len(said) < len(clauses):
        return (), ()
    training = tuple(
        joint.join(ways.training[index].format(rest) for ways, rest in said) for index, joint in enumerate(_JOINED)
    )
    held_out = tuple(
        joint.join(ways.held_out[index].format(rest) for ways, rest in said)
        for index, joint in enumerate(_JOINED_HELD_OUT)
    )
    return training, held_out
