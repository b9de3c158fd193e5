"""YAML with a memory: a text becomes plain Python values and the place (file, line, column) of every key and item.

PyYAML's parser is used for the grammar only: what a word means is decided in ``scalars``, and the rest here. Two equal
keys are an error that names both places. A tag is an error, whichever it is, and no object is ever built from one: no
file can run anything. Nesting, and the size after expanding aliases, are bounded: no file can fill the memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from .errors import ConfigError, KeyPath, Place, Problem, key_text, value_text
from .scalars import plain_scalar

MAX_DEPTH = 20
MAX_NODES = 10_000

_UNUSABLE = re.compile("[\0\ud800-\udfff]")  # neither a file name nor JSON can hold these

_SYNTAX_HINTS = (
    (r"character '\t'", "a tab cannot indent here: use spaces"),
    ("mapping values are not allowed", "a second 'key: value' begins here: check the indentation, or quote the text"),
    ("expected <block end>", "this line does not fit the ones above it: check the indentation"),
    ("could not find expected ':'", "the line above lacks its ':' (or a quote is open)"),
    ("while scanning a quoted scalar", "a quote is never closed"),
    ("expected ',' or", "a bracket is never closed, or a comma is missing"),
    ("cannot start any token", "text that begins with this character must be in quotes"),
    ("expected '<document start>'", "this text belongs to nothing above: is there a space after every ':'?"),
    ("expected the node content", "a value is missing here"),
    ("special characters are not allowed", "there is a character here that text may not hold"),
)


@dataclass(frozen=True)
class Layer:
    """The settings of one source, or of several laid over each other, and where each was written."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, Place] = field(default_factory=dict)


def parse_file(text: str, source: str) -> tuple[Layer, list[Problem]]:
    """Read the text of a configuration file.

    Args:
        text: the content; nothing at all is an empty configuration.
        source: the file's name as messages should show it.

    Returns:
        The layer, and the problems that left something to go on with (repeated keys, tags).

    Raises:
        ConfigError: if the text is not YAML, not a mapping, nested too deeply or expands beyond all measure.
    """
    reader = _Reader(text, Place(source))
    node = reader.document()
    if node.value is None:
        return Layer(), reader.problems
    if not isinstance(node.value, dict):
        kind = "a list" if isinstance(node.value, list) else f"only {value_text(node.value)}"
        reader.stop(f"a configuration holds 'key: value' lines, this one {kind}", node.places[()])
    return Layer(node.value, {path: place for path, place in node.places.items() if path}), reader.problems


def parse_value(text: str, path: KeyPath, place: Place) -> tuple[Layer, list[Problem]]:
    """Read the value of ``key=value`` by the same rules as a file's.

    Args:
        text: what stands after the ``=``.
        path: the key; it must not be empty.
        place: the argument as a whole, the place of everything in it.

    Returns:
        A layer that sets this key only, and the problems that left something to go on with.

    Raises:
        ConfigError: as ``parse_file``, each problem at ``place``.
    """
    reader = _Reader(text, place)
    node = reader.document()
    value = node.value
    for part in reversed(path):
        value = {part: value}
    above = [path[:length] for length in range(1, len(path))]
    return Layer(value, dict.fromkeys([*above, *((*path, *inner) for inner in node.places)], place)), reader.problems


@dataclass(frozen=True)
class _Node:
    value: Any
    places: dict[KeyPath, Place]  # relative to the node; () is the node itself
    size: int = 1


class _Reader:
    """Turns the parser's events into nodes. Problems that need not stop it collect in ``problems``."""

    def __init__(self, text: str, place: Place) -> None:
        self.problems: list[Problem] = []
        self._text = text
        self._whole = place
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._anchors: dict[str, _Node] = {}
        self._size = 0

    def document(self) -> _Node:
        self._next()
        first = self._next()
        if isinstance(first, yaml.StreamEndEvent):
            return _Node(None, {(): self._whole})
        node = self._node(self._next(), ())
        self._next()
        extra = self._next()
        if not isinstance(extra, yaml.StreamEndEvent):
            self.stop("a second document begins here ('---'): one file holds one", self._at(extra))
        return node

    def stop(self, message: str, place: Place) -> NoReturn:
        raise ConfigError([*self.problems, Problem(message, place)])

    def _note(self, message: str, place: Place) -> None:
        self.problems.append(Problem(message, place))

    def _at(self, event: Any) -> Place:
        return self._position(event.start_mark.line, event.start_mark.column)

    def _position(self, line: int, column: int) -> Place:
        return self._whole if self._whole.typed else Place(self._whole.source, line + 1, column + 1)

    def _next(self) -> Any:
        try:
            return next(self._events)
        except yaml.reader.ReaderError as error:
            before = self._text[: error.position]
            place = self._position(before.count("\n"), len(before) - before.rfind("\n") - 1)
            self.stop(_syntax_message(str(error)), place)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = self._position(mark.line, mark.column) if mark else self._whole
            self.stop(_syntax_message(f"{error.context or ''} {error.problem or ''}".strip()), place)
        except (ValueError, OverflowError):  # PyYAML passes "\\UFFFFFFFF" on to chr() as it is
            self.stop("not valid YAML: a backslash escape names no character", self._whole)

    def _node(self, event: Any, path: KeyPath) -> _Node:
        place = self._at(event)
        self._check_depth(len(path), place)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path, place)
        self._count(1, place)
        if event.tag is not None:
            self._refuse_tag(event.tag, place)
        if isinstance(event, yaml.MappingStartEvent):
            node = self._mapping(path, place)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(path, place)
        else:
            node = _Node(self._scalar(event, place), {(): place})
        # Known only once complete: whatever contains itself is thereby an unknown alias instead of an endless loop.
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: Any, path: KeyPath, place: Place) -> _Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            self.stop(f"'*{event.anchor}' refers to '&{event.anchor}', which is not complete before this line", place)
        self._check_depth(len(path) + max(map(len, node.places)), place)
        self._count(node.size, place)
        return _Node(node.value, {**node.places, (): place}, node.size)

    def _check_depth(self, depth: int, place: Place) -> None:
        if depth > MAX_DEPTH:
            self.stop(f"nested more than {MAX_DEPTH} levels deep", place)

    def _count(self, nodes: int, place: Place) -> None:
        self._size += nodes
        if self._size > MAX_NODES:
            self.stop(f"holds more than {MAX_NODES} values once its aliases (*) are expanded", place)

    def _sequence(self, path: KeyPath, place: Place) -> _Node:
        items: list[Any] = []
        places: dict[KeyPath, Place] = {(): place}
        size = 1
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            node = self._node(event, (*path, len(items)))
            places |= {(len(items), *inner): at for inner, at in node.places.items()}
            size += node.size
            items.append(node.value)
        return _Node(items, places, size)

    def _mapping(self, path: KeyPath, place: Place) -> _Node:
        values: dict[str, Any] = {}
        places: dict[KeyPath, Place] = {(): place}
        size = 1
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key, at = self._key(event), self._at(event)
            node = self._node(self._next(), (*path, key))
            size += node.size
            if key in values:
                self._note(f"'{key_text((*path, key))}' is already set at {places[(key,)]}: keep one of the two", at)
            elif key == "<<":
                self._note("merge keys ('<<') are not supported: use 'base:' to build on another file", at)
            else:
                values[key] = node.value
                places |= {(key, *inner): where for inner, where in node.places.items()} | {(key,): at}
        return _Node(values, places, size)

    def _key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self.stop("a key must be a single word", self._at(event))
        if event.tag is not None:
            self._refuse_tag(event.tag, self._at(event))
        return self._usable(event.value, self._at(event))

    def _refuse_tag(self, tag: str, place: Place) -> None:
        tag = tag.replace("tag:yaml.org,2002:", "!!", 1)
        self._note(f"'{tag}' is a tag, and tags are not allowed: write the plain value", place)

    def _scalar(self, event: Any, place: Place) -> Any:
        if event.style is not None:
            return self._usable(event.value, place)
        if event.value == "None":
            self._note("None is only text in YAML: write null (or, if the text is meant, 'None' in quotes)", place)
            return None
        value = plain_scalar(event.value)
        return self._usable(value, place) if isinstance(value, str) else value

    def _usable(self, text: str, place: Place) -> str:
        if _UNUSABLE.search(text):
            self._note("this text holds a character that no file name can hold", place)
        return _UNUSABLE.sub("?", text)


def _syntax_message(detail: str) -> str:
    hint = next((hint for fragment, hint in _SYNTAX_HINTS if fragment in detail), detail)
    return f"not valid YAML: {hint}"
