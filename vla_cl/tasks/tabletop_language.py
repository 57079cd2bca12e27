"""Instructions for declared scenes, said in several ways: from the goal and from what things are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vla_cl.envs.tabletop.scene import Condition, Scene

TRAINING, HELD_OUT = 5, 3
"""Of each predicate's sentences, the first is canonical, the rest of the first five are paraphrases, the last three are
never trained on."""

_SENTENCES: Mapping[str, tuple[str, ...]] = {
    "on": (
        "put the {0} on the {1}",
        "place the {0} on top of the {1}",
        "pick up the {0} and set it down on the {1}",
        "move the {0} onto the {1}",
        "take the {0} and lay it on the {1}",
        "the {0} belongs on the {1}",
        "make sure that the {0} rests on the {1}",
        "find the {0} and let it stand on the {1}",
    ),
    "push": (
        "push the {0} onto the {1}",
        "slide the {0} to the {1}",
        "shove the {0} across the table onto the {1}",
        "move the {0} over to the {1} without lifting it",
        "push the {0} until it lies on the {1}",
        "the {0} should be slid onto the {1}",
        "nudge the {0} over until it covers the {1}",
        "bring the {0} to the {1} by pushing it",
    ),
    "in": (
        "put the {0} in the {1}",
        "place the {0} inside the {1}",
        "pick up the {0} and drop it into the {1}",
        "move the {0} into the {1}",
        "take the {0} and put it away in the {1}",
        "the {0} belongs in the {1}",
        "make sure that the {0} ends up inside the {1}",
        "store the {0} in the {1}",
    ),
    "open": (
        "open the {0}",
        "pull the {0} open",
        "pull out the {0}",
        "slide the {0} out",
        "grab the handle of the {0} and pull",
        "the {0} should be open",
        "get the {0} open",
        "draw the {0} out as far as it goes",
    ),
    "closed": (
        "close the {0}",
        "push the {0} shut",
        "shut the {0}",
        "slide the {0} back in",
        "push the {0} closed",
        "the {0} should be shut",
        "make sure that the {0} is closed",
        "get the {0} shut again",
    ),
    "turned": (
        "turn the {0}",
        "rotate the {0}",
        "twist the {0} to the side",
        "grip the {0} and turn it",
        "give the {0} a turn",
        "the {0} should be turned",
        "set the {0} to another position",
        "spin the {0} around",
    ),
    "pressed": (
        "press the {0}",
        "push the {0} down",
        "press down on the {0}",
        "push down the {0}",
        "hit the {0} from above",
        "the {0} should be pressed",
        "make sure that the {0} is down",
        "give the {0} a firm push",
    ),
    "left_of": (
        "put the {0} to the left of the {1}",
        "place the {0} left of the {1}",
        "move the {0} to the left side of the {1}",
        "set the {0} down on the left of the {1}",
        "pick up the {0} and put it left of the {1}",
        "the {0} belongs to the left of the {1}",
        "have the {0} stand on the left-hand side of the {1}",
        "let the {1} have the {0} on its left",
    ),
    "right_of": (
        "put the {0} to the right of the {1}",
        "place the {0} right of the {1}",
        "move the {0} to the right side of the {1}",
        "set the {0} down on the right of the {1}",
        "pick up the {0} and put it right of the {1}",
        "the {0} belongs to the right of the {1}",
        "have the {0} stand on the right-hand side of the {1}",
        "let the {1} have the {0} on its right",
    ),
    "behind": (
        "put the {0} behind the {1}",
        "place the {0} at the back of the {1}",
        "move the {0} behind the {1}",
        "set the {0} down behind the {1}",
        "pick up the {0} and put it behind the {1}",
        "the {0} belongs behind the {1}",
        "have the {0} stand at the rear of the {1}",
        "hide the {0} behind the {1}",
    ),
    "in_front_of": (
        "put the {0} in front of the {1}",
        "place the {0} before the {1}",
        "move the {0} to the front of the {1}",
        "set the {0} down in front of the {1}",
        "pick up the {0} and put it in front of the {1}",
        "the {0} belongs in front of the {1}",
        "have the {0} stand before the {1}",
        "bring the {0} forward, to the front of the {1}",
    ),
    "near": (
        "put the {0} next to the {1}",
        "place the {0} near the {1}",
        "move the {0} close to the {1}",
        "set the {0} down beside the {1}",
        "pick up the {0} and put it by the {1}",
        "the {0} belongs near the {1}",
        "have the {0} stand close by the {1}",
        "bring the {0} up to the {1}",
    ),
    "between": (
        "put the {0} between the {1} and the {2}",
        "place the {0} in between the {1} and the {2}",
        "move the {0} to the space between the {1} and the {2}",
        "set the {0} down between the {1} and the {2}",
        "pick up the {0} and put it between the {1} and the {2}",
        "the {0} belongs between the {1} and the {2}",
        "have the {0} stand in the middle of the {1} and the {2}",
        "let the {1} and the {2} have the {0} between them",
    ),
    "upright": ("stand the {0} upright", *("set the {0} upright",) * 7),
    "lifted": (
        "lift the {0}",
        "pick up the {0}",
        "raise the {0} off the table",
        "take the {0} up",
        "grab the {0} and lift it",
        "the {0} should be in the air",
        "hold the {0} up",
        "get the {0} off the table",
    ),
}

_RELATIONS: Mapping[str, str] = {
    "on": "on the {1}",
    "in": "in the {1}",
    "left_of": "to the left of the {1}",
    "right_of": "to the right of the {1}",
    "behind": "behind the {1}",
    "in_front_of": "in front of the {1}",
    "near": "next to the {1}",
    "between": "between the {1} and the {2}",
}


@dataclass(frozen=True)
class Wording:
    """A task in words: the instruction, what else it may be called in training, and what it never is."""

    instruction: str
    paraphrases: tuple[str, ...]
    held_out: tuple[str, ...]


def describe(scene: Scene, goal: Sequence[Condition]) -> Wording:
    """Say what is to be done.

    Args:
        scene: The scene.
        goal: What is to become true, in the order in which it is said.
    """
    variants = [_sentences(scene, condition) for condition in goal]
    whole = [_joined(parts) for parts in zip(*variants, strict=True)]
    unique = list(dict.fromkeys(whole))
    held_out = tuple(sentence for sentence in unique if sentence in whole[TRAINING:])
    training = [sentence for sentence in unique if sentence not in held_out]
    return Wording(training[0], tuple(training[1:]), held_out)


def call(scene: Scene, name: str) -> str:
    """What a thing is called, with what tells it from its look-alikes: "red can that is to the left of the box"."""
    called = scene.things[name].called
    relation = scene.referents.get(name)
    if relation is None:
        return called
    words = [scene.things[argument].called for argument in relation.arguments]
    return f"{called} that is {_RELATIONS[relation.predicate].format(*words)}"


def _sentences(scene: Scene, condition: Condition) -> list[str]:
    """The ways to say one condition; what has no grip is pushed."""
    predicate = condition.predicate
    if predicate == "on" and scene.items()[condition.arguments[0]].grip is None:
        predicate = "push"
    words = [call(scene, name) for name in condition.arguments]
    return [sentence.format(*words) for sentence in _SENTENCES[predicate]]


def _joined(sentences: Sequence[str]) -> str:
    *first, last = sentences
    return f"{', '.join(first)} and {last}" if first else last
