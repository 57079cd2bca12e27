"""Parentheses and words of a BDDL file, with the line and the column of each."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from vla_cl.errors import ConfigurationError

DEEPEST = 32
"""Parentheses nested deeper than this are refused; the benchmark's own files nest 5 deep."""

_TOKEN = re.compile(r";[^\n]*|[()]|[^\s();]+")


class BddlError(ConfigurationError):
    """Something in a BDDL file that cannot be used, with its line and column."""


@dataclass(frozen=True)
class Place:
    """Where something stands: file, line and column, both counted from 1."""

    source: str
    line: int
    column: int

    def error(self, message: str) -> BddlError:
        """The error that says `message` of what stands here."""
        return BddlError(f"{self.source}, line {self.line}, column {self.column}: {message}")


@dataclass(frozen=True)
class Word:
    """A run of characters without spaces and parentheses, in lower case."""

    text: str
    place: Place


@dataclass(frozen=True)
class Group:
    """What a pair of parentheses encloses."""

    items: tuple[Word | Group, ...]
    place: Place


@dataclass
class _Opened:
    place: Place
    items: list[Word | Group] = field(default_factory=list)


def read_group(text: str, source: str) -> Group:
    """The one group that a BDDL text consists of. `;` starts a comment that lasts to the end of its line.

    Args:
        text: The whole file.
        source: What errors call it.

    Raises:
        BddlError: Parentheses do not match, or something stands outside of them.
    """
    stack = [_Opened(Place(source, 1, 1))]
    for token, place in _tokens(text, source):
        if token == "(":
            if len(stack) > DEEPEST:
                raise place.error(f"parentheses nest deeper than {DEEPEST}")
            stack.append(_Opened(place))
        elif token == ")":
            if len(stack) == 1:
                raise place.error("')' closes nothing; remove it or open a group before")
            closed = stack.pop()
            stack[-1].items.append(Group(tuple(closed.items), closed.place))
        else:
            stack[-1].items.append(Word(token.lower(), place))
    if len(stack) > 1:
        raise stack[-1].place.error("'(' is never closed")
    match stack[0].items:
        case [Group() as group]:
            return group
        case []:
            raise stack[0].place.error("the file is empty; it must be one (define (problem ...) ...)")
        case [Group(), extra, *_] | [Word() as extra, *_]:
            raise extra.place.error(f"{shown(extra)} stands outside of the one (define ...)")
    raise AssertionError("a list is empty or has a first item")


def _tokens(text: str, source: str) -> Iterable[tuple[str, Place]]:
    line, start, read = 1, 0, 0
    for match in _TOKEN.finditer(text):
        between = text.count("\n", read, match.start())
        if between:
            line, start = line + between, text.rindex("\n", read, match.start()) + 1
        read = match.start()
        if not match.group().startswith(";"):
            yield match.group(), Place(source, line, match.start() - start + 1)


def words(items: Iterable[Word | Group], expected: str) -> list[Word]:
    """The items, every one of which must be a word.

    Raises:
        BddlError: One is a group; `expected` says what should be there.
    """
    found = []
    for item in items:
        if not isinstance(item, Word):
            raise item.place.error(f"expected {expected}, got a group in parentheses")
        found.append(item)
    return found


def headed(item: Word | Group, what: str) -> tuple[Word, Group]:
    """The word that a group starts with, and the group without it.

    Raises:
        BddlError: The item is not such a group; `what` says what it should be.
    """
    match item:
        case Group([Word() as head, *rest], place):
            return head, Group(tuple(rest), place)
        case Group([head, *_]):
            raise head.place.error(f"expected the name of {what}, got a group in parentheses")
        case Group(_, place):
            raise place.error(f"expected {what}, got ()")
        case Word(text, place):
            raise place.error(f"expected {what} in parentheses, got {text!r}")


def shown(item: Word | Group) -> str:
    """What an error calls an item."""
    return repr(item.text) if isinstance(item, Word) else "a group in parentheses"


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown name: the known one that is most like it, else all of them."""
    names = sorted(known)
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"did you mean {matches[0]!r}?" if matches else f"known: {', '.join(names) or 'none'}"
