"""Reader of BDDL, the language in which LIBERO declares a task: regions, fixtures, objects, initial conditions, goal.

A file is one `(define (problem NAME) (:domain robosuite) (:language ...) (:regions ...) (:fixtures ...) (:objects ...)
(:obj_of_interest ...) (:init ...) (:goal ...))`. Case has no meaning: names come out in lower case.

Source: Liu et al., "LIBERO: Benchmarking Knowledge Transfer for Lifelong Robot Learning", 2023, section 4; the format
goes back to Srivastava et al., "BEHAVIOR", 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vla_cl.envs.libero.bddl_regions import Region, read_region
from vla_cl.envs.libero.bddl_tokens import BddlError, Group, Place, Word, headed, nearest, read_group, shown, words

DOMAIN = "robosuite"

PREDICATES: Mapping[str, tuple[int, ...]] = {
    "in": (2,),
    "on": (2,),
    "up": (1,),
    "open": (1,),
    "close": (1,),
    "turnon": (1,),
    "turnoff": (1,),
    "true": (1, 2),
    "false": (1, 2),
}
"""Numbers of arguments by predicate."""

_LARGEST_FILE = 1_000_000
"""Bytes; the benchmark's largest file has 4,000."""


@dataclass(frozen=True)
class Condition:
    """A predicate and what it is about: `Condition("on", ("plate_1", "main_table_plate_region"))`."""

    predicate: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"({' '.join((self.predicate, *self.arguments))})"


@dataclass(frozen=True)
class Problem:
    """What a BDDL file declares.

    Args:
        name: Class of the problem, which decides on the arena ("libero_tabletop_manipulation").
        domain: "robosuite".
        language: The instruction that the file gives, in lower case; not always the one of the file's name.
        regions: Regions by "<target>_<name>", in the file's order.
        fixtures: Categories of the things that are fixed, by instance ("wooden_cabinet_1"), in the file's order.
        objects: Categories of the things that move, by instance, in the file's order.
        objects_of_interest: Instances that the goal speaks of.
        initial: What holds at first.
        goal: What must hold at the same time in the end.
    """

    name: str
    domain: str
    language: str
    regions: Mapping[str, Region] = field(default_factory=dict)
    fixtures: Mapping[str, str] = field(default_factory=dict)
    objects: Mapping[str, str] = field(default_factory=dict)
    objects_of_interest: tuple[str, ...] = ()
    initial: tuple[Condition, ...] = ()
    goal: tuple[Condition, ...] = ()


def by_category(things: Mapping[str, str]) -> tuple[str, ...]:
    """Instances, those of one category together, categories in order of their first appearance.

    In this order the benchmark builds its scenes, and hence lays out its state vectors.

    Args:
        things: Categories by instance: `Problem.fixtures` or `Problem.objects`.
    """
    instances: dict[str, list[str]] = {}
    for instance, category in things.items():
        instances.setdefault(category, []).append(instance)
    return tuple(instance for group in instances.values() for instance in group)


def read_problem(path: Path | str) -> Problem:
    """Read a BDDL file.

    Raises:
        BddlError: It cannot be read, or is not as the benchmark's files are; the message names line and column.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise BddlError(f"{path} is larger than {_LARGEST_FILE} bytes; it is no BDDL file")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BddlError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BddlError(f"{path} is not text in UTF-8 (byte {error.start})") from error
    return parse_problem(text, str(path))


def parse_problem(text: str, source: str = "BDDL") -> Problem:
    """Read the text of a BDDL file.

    Args:
        text: The whole file.
        source: What errors call it.

    Raises:
        BddlError: It is not as the benchmark's files are; the message names line and column.
    """
    define = read_group(text, source)
    match define.items:
        case [Word("define"), *rest]:
            sections = _sections(rest)
        case [first, *_]:
            raise first.place.error(f"expected 'define', got {shown(first)}")
        case _:
            raise define.place.error("expected (define (problem ...) ...), got ()")
    for needed in ("problem", ":domain", ":language", ":goal"):
        if needed not in sections:
            raise define.place.error(f"section {needed!r} is missing")
    return _Reader(sections).problem()


_SECTIONS = (
    "problem",
    ":domain",
    ":requirements",
    ":language",
    ":regions",
    ":fixtures",
    ":objects",
    ":obj_of_interest",
    ":init",
    ":goal",
)


def _sections(items: list[Word | Group]) -> dict[str, Group]:
    sections: dict[str, Group] = {}
    for item in items:
        name, group = headed(item, "a section")
        if name.text not in _SECTIONS:
            raise name.place.error(f"section {name.text!r} is unknown; {nearest(name.text, _SECTIONS)}")
        if name.text in sections:
            raise name.place.error(f"section {name.text!r} is there twice")
        sections[name.text] = group
    return sections


class _Reader:
    """Reads the sections one after another; each is checked against those before it."""

    def __init__(self, sections: Mapping[str, Group]) -> None:
        self.sections = sections
        self.known: dict[str, str] = {}

    def problem(self) -> Problem:
        name = self.one_word("problem")
        domain = self.one_word(":domain")
        if domain.text != DOMAIN:
            raise domain.place.error(f"domain {domain.text!r} is unknown; use {DOMAIN!r}")
        fixtures = self.instances(":fixtures")
        objects = self.instances(":objects")
        regions = self.regions()
        return Problem(
            name=name.text,
            domain=domain.text,
            language=" ".join(word.text for word in words(self.items(":language"), "a word of the instruction")),
            regions=regions,
            fixtures=fixtures,
            objects=objects,
            objects_of_interest=tuple(
                self.declared(word).text for word in words(self.items(":obj_of_interest"), "a name")
            ),
            initial=tuple(self.condition(item) for item in self.items(":init")),
            goal=self.goal(),
        )

    def items(self, section: str) -> tuple[Word | Group, ...]:
        group = self.sections.get(section)
        return group.items if group else ()

    def one_word(self, section: str) -> Word:
        match self.items(section):
            case [Word() as word]:
                return word
        raise self.sections[section].place.error(f"({section} ...) must hold one name")

    def declare(self, name: str, kind: str, place: Place) -> None:
        if name in self.known:
            raise place.error(f"{kind} {name!r} has the name of {_article(self.known[name])} declared before")
        self.known[name] = kind

    def declared(self, word: Word) -> Word:
        if word.text not in self.known:
            raise word.place.error(f"{word.text!r} is no object, fixture or region; {nearest(word.text, self.known)}")
        return word

    def instances(self, section: str) -> dict[str, str]:
        """The categories, by instance, of `one_1 two_1 - category_a three_1 - category_b`."""
        kind = section[1:-1]
        found: dict[str, str] = {}
        waiting: list[Word] = []
        listed = iter(words(self.items(section), f"the name of {_article(kind)}"))
        for word in listed:
            if word.text != "-":
                waiting.append(word)
                continue
            category = next(listed, None)
            if category is None or category.text == "-":
                raise word.place.error("a category must follow '-'")
            if not waiting:
                raise category.place.error(f"category {category.text!r} has no {kind}")
            for instance in waiting:
                self.declare(instance.text, kind, instance.place)
                found[instance.text] = category.text
            waiting = []
        if waiting:
            raise waiting[0].place.error(f"{kind} {waiting[0].text!r} has no category; write '{waiting[0].text} - ...'")
        return found

    def regions(self) -> dict[str, Region]:
        """Regions by "<target>_<name>". Some files keep sites of a thing that their scene has no longer; nothing may
        name those.
        """
        found: dict[str, Region] = {}
        instances = dict(self.known)
        for item in self.items(":regions"):
            name, group = headed(item, "a region")
            region, target = read_region(name, group)
            key = f"{region.target}_{region.name}"
            if target.text in instances:
                self.declare(key, "region", name.place)
            elif region.ranges:
                raise target.place.error(
                    f"target {target.text!r} is no object or fixture; {nearest(target.text, instances)}"
                )
            elif key in found:
                raise name.place.error(f"region {key!r} is there twice")
            found[key] = region
        return found

    def condition(self, item: Word | Group) -> Condition:
        name, group = headed(item, "a condition")
        if name.text not in PREDICATES:
            raise name.place.error(f"predicate {name.text!r} is unknown; {nearest(name.text, PREDICATES)}")
        arguments = words(group.items, "the name of an object, fixture or region")
        if len(arguments) not in PREDICATES[name.text]:
            counts = " or ".join(str(count) for count in PREDICATES[name.text])
            noun = "argument" if counts == "1" else "arguments"
            raise name.place.error(f"predicate {name.text!r} takes {counts} {noun}, got {len(arguments)}")
        return Condition(name.text, tuple(self.declared(word).text for word in arguments))

    def goal(self) -> tuple[Condition, ...]:
        section = self.sections[":goal"]
        match section.items:
            case [Group([Word("and"), *conditions])] if conditions:
                return tuple(self.condition(item) for item in conditions)
            case [Group() as condition]:
                return (self.condition(condition),)
        raise section.place.error("(:goal ...) must hold one condition, or (and ...) of several")


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
