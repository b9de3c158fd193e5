"""The schema seen from outside: every key, its type in plain words, its default, its description.

Whoever explains the configuration to a user (error messages, ``cait config show --fields``) reads the schema through
this table, so that a field added to a section is known everywhere at once.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from .run import RunConfig
from .scalars import spell
from .section import Section

_WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path", NoneType: "null"}


@dataclass(frozen=True)
class SchemaField:
    """One key of the schema: a value, or a section that holds further keys."""

    key: str  # dotted; the keys of a list's items follow the list's own: evaluation.sets.name
    info: FieldInfo
    section: type[Section] | None = None  # of the value, or of the items of a list of sections
    is_list: bool = False
    in_list: bool = False

    @property
    def is_section(self) -> bool:
        """Whether the key holds a mapping of further keys."""
        return self.section is not None and not self.is_list

    @property
    def is_leaf(self) -> bool:
        """Whether the key has one value, replaced as a whole; lists do, their items have not."""
        return not self.is_section and not self.in_list

    @property
    def choices(self) -> tuple[Any, ...]:
        """The only values allowed, for the key or for the items of its list; empty if they cannot be listed."""
        return tuple(_literals(self.info.annotation))

    @property
    def nullable(self) -> bool:
        """Whether null is a value of this key."""
        return NoneType in get_args(self.info.annotation)


@cache
def schema_fields() -> dict[str, SchemaField]:
    """Every key of ``RunConfig`` in the order of the schema; a section comes before its keys."""
    return {found.key: found for found in _walk(RunConfig, "", in_list=False)}


def schema_help() -> str:
    """Every field with type, default and description, for people: the text of ``cait config show --fields``."""
    table = schema_fields()
    text = _summary(RunConfig)
    for section in ["", *(key for key, found in table.items() if found.section)]:
        inside = [found for key, found in table.items() if key.rpartition(".")[0] == section and not found.is_section]
        if section:
            text += f"\n{section}: {_summary(table[section].section)}"
        text += "".join(f"\n  {found.key}\n{_details(found)}" for found in inside) + "\n"
    return text


def type_text(found: SchemaField) -> str:
    """The type of a field in plain words, with its bounds: ``number, >= 0, < 1, or null``."""
    parts = [_words(found.info.annotation), *(_bounds(found.info.metadata))]
    return ", ".join(part for part in parts if part) + (", or null" if found.nullable else "")


def _details(found: SchemaField) -> str:
    default = "required" if found.info.is_required() else f"default {_default_text(found)}"
    paragraphs = (f"{type_text(found)}; {default}", found.info.description or "")
    indent = " " * 6
    return "\n".join(textwrap.fill(p, 100, initial_indent=indent, subsequent_indent=indent) for p in paragraphs)


def _walk(model: type[Section], prefix: str, *, in_list: bool) -> Iterator[SchemaField]:
    for name, info in model.model_fields.items():
        section, is_list = _section_of(info.annotation)
        yield SchemaField(prefix + name, info, section, is_list, in_list)
        if section:
            yield from _walk(section, f"{prefix}{name}.", in_list=in_list or is_list)


def _section_of(annotation: Any) -> tuple[type[Section] | None, bool]:
    if inspect.isclass(annotation) and issubclass(annotation, Section):
        return annotation, False
    for item in get_args(annotation) if get_origin(annotation) is tuple else ():
        if inspect.isclass(item) and issubclass(item, Section):
            return item, True
    return None, False


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (tuple, Annotated, Union, UnionType):
        for inner in get_args(annotation):
            yield from _literals(inner)


def _words(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return ", ".join([_words(inner[0]), *_bounds(inner[1:])])
    if origin in (Union, UnionType):
        return " or ".join(_words(kind) for kind in inner if kind is not NoneType)
    if origin is Literal:
        return "one of " + ", ".join(spell(choice) for choice in inner)
    if origin is tuple and inner[-1] is Ellipsis:
        return f"list, each {_words(inner[0])}"
    if origin is tuple:
        return f"list of {len(inner)}, each {_words(inner[0])}"
    return "mapping" if _section_of(annotation)[0] else _WORDS.get(annotation, str(annotation))


def _bounds(metadata: Any) -> Iterator[str]:
    for bound in metadata:
        if isinstance(bound, FieldInfo):
            yield from _bounds(bound.metadata)
        elif isinstance(bound, annotated_types.Ge):
            yield f">= {bound.ge}"
        elif isinstance(bound, annotated_types.Gt):
            yield f"> {bound.gt}"
        elif isinstance(bound, annotated_types.Le):
            yield f"<= {bound.le}"
        elif isinstance(bound, annotated_types.Lt):
            yield f"< {bound.lt}"
        elif isinstance(bound, annotated_types.MultipleOf):
            yield f"a multiple of {bound.multiple_of}"
        elif isinstance(bound, annotated_types.MinLen):
            yield f"at least {bound.min_length} long"


def _default_text(found: SchemaField) -> str:
    value = found.info.get_default()
    if isinstance(value, tuple):
        value = [item.model_dump() if isinstance(item, Section) else item for item in value]
    return spell(str(value) if isinstance(value, Path) else value)


def _summary(section: type[Section] | None) -> str:
    return (inspect.getdoc(section) or "").split("\n\n", 1)[0].replace("\n", " ")
