"""From pydantic's findings to lines a user can act on: which key, what it must be, what it is, where it was written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from .errors import KeyPath, Place, Problem, key_text, value_text
from .fields import SchemaField, schema_fields
from .scalars import plain_scalar
from .suggest import did_you_mean, nearest_keys, nearest_values
from .yaml_places import Layer

_MANY_CHOICES = 8

# By the kind of pydantic's finding; the braces are filled from its context.
_MUST_BE = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "too_long": "must be a list of {max_length}",
    "too_short": "must be a list of at least {min_length}",
    "string_too_short": "must not be empty",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_pattern_mismatch": "must match the pattern {pattern}",
}
_NOT_A_MAPPING = ("model_type", "model_attributes_type", "dict_type")


def explain(error: ValidationError, layer: Layer, file: str) -> list[Problem]:
    """Say what is wrong with ``layer``.

    Args:
        error: what validating ``layer.values`` raised.
        layer: the merged settings and their places.
        file: the configuration file as messages should show it, for problems that have no place of their own.

    Returns:
        One problem for each thing the user has to mend, in the order of the schema.
    """
    findings = error.errors(include_url=False)
    judge = _Judge(layer, Place(file), {found["loc"] for found in findings})
    return [problem for found in findings for problem in judge.problems(found)]


@dataclass(frozen=True)
class _Judge:
    layer: Layer
    file: Place
    locations: set[KeyPath]

    def problems(self, found: Mapping[str, Any]) -> Iterator[Problem]:
        kind, path = found["type"], found["loc"]
        if kind == "extra_forbidden":
            yield from self._unknown(path)
        elif kind == "missing" and isinstance(path[-1], int):
            yield from self._list_too_short(path)
        elif kind == "missing":
            yield from self._missing(path)
        elif kind in _NOT_A_MAPPING:
            yield self._not_a_mapping(path)
        elif kind == "value_error" and self._holds_keys(path):
            yield from self._rule_broken(path, str(found["ctx"]["error"]))
        elif kind != "too_short" or not self._has_findings_inside(path):
            yield self._wrong_value(path, found)

    def _unknown(self, path: KeyPath) -> Iterator[Problem]:
        typed = [
            at
            for at, place in self.layer.places.items()
            if place.typed and at[: len(path)] == path and all(isinstance(part, str) for part in at[len(path) :])
        ]
        above = {at[:-1] for at in typed}
        ends = [at for at in typed if at not in above]
        for end in ends if self._place(path).typed else [path, *ends]:
            yield Problem(f"unknown key '{key_text(end)}'{self._other_key(end)}", self._place(end))

    def _other_key(self, path: KeyPath) -> str:
        if "." in str(path[-1]) and key_text(path) in schema_fields():
            section, _, name = str(path[-1]).rpartition(".")
            return f" — write '{section}:' and, indented below it, '{name}: …'"
        inside = key_text(path[:-1])
        candidates = nearest_keys(_schema_key(path))
        shown = [
            f"{inside}.{key.rpartition('.')[2]}" if key.rpartition(".")[0] == _schema_key(path[:-1]) and inside else key
            for key in candidates
        ]
        return did_you_mean([f"'{key}'" for key in shown])

    def _missing(self, path: KeyPath) -> Iterator[Problem]:
        key = _schema_key(path)
        for found in schema_fields().values():
            inside = found.key.startswith(f"{key}.")
            if (found.key == key or inside) and found.info.is_required() and not found.is_section:
                place = self._place(path)
                if inside or place.typed:  # what is missing was not left out by an argument that sets something else
                    place = self.file
                shown = found.key if found.is_leaf else key_text(path)
                remedy = f" — add it to {self.file} or pass {shown}=…" if found.is_leaf else " — add it"
                yield Problem(f"'{shown}' is required{remedy}", place, lacks=shown)

    def _list_too_short(self, path: KeyPath) -> Iterator[Problem]:
        missing = [at[-1] for at in self.locations if at[:-1] == path[:-1] and isinstance(at[-1], int)]
        length = max(int(index) for index in missing) + 1
        if path[-1] == min(int(index) for index in missing):
            whole = path[:-1]
            yield self._says(whole, f"must be a list of {length}, got {value_text(self._value(whole))}")

    def _not_a_mapping(self, path: KeyPath) -> Problem:
        value = self._value(path)
        if value is None:
            return self._says(path, f"needs a mapping, got nothing — {self._how_to_fill(path)}")
        key = _schema_key(path)
        example = next(k for k in schema_fields() if k.startswith(f"{key}."))
        shown = f"{key_text(path)}.{example.rpartition('.')[2]}"
        return self._says(path, f"needs a mapping, got {value_text(value)}" + did_you_mean([f"'{shown}'"]))

    def _how_to_fill(self, path: KeyPath) -> str:
        inside = [found for key, found in schema_fields().items() if key.startswith(f"{_schema_key(path)}.")]
        required = [found.key for found in inside if found.info.is_required()]
        return "indent its keys below it" + ("" if required else ", or remove the line")

    def _rule_broken(self, path: KeyPath, message: str) -> Iterator[Problem]:
        for line in message.splitlines():
            words = [tuple(word.split(".")) for word in re.findall(r"[a-z0-9_]+(?:\.[a-z0-9_]+)*", line)]
            known = [at for word in words for at in (word, (*path, *word)) if at in self.layer.places]
            yield Problem(line, self._place(known[0] if known else path))

    def _wrong_value(self, path: KeyPath, found: Mapping[str, Any]) -> Problem:
        value, field = self._value(path), schema_fields().get(_schema_key(path))
        kind, context = found["type"], found.get("ctx", {})
        if field and field.choices and kind in ("literal_error", "value_error"):
            return self._says(path, _outside_choices(value, field.choices))
        if kind == "value_error":
            must_be = str(context["error"])
        else:
            must_be = _MUST_BE.get(kind, found["msg"]).format_map(_plain_numbers(context))
        got = "" if ", got " in must_be else f", got {value_text(value)}"
        return self._says(path, must_be + got + _remedy(kind, value, field))

    def _says(self, path: KeyPath, what: str) -> Problem:
        return Problem(f"'{key_text(path)}': {what}", self._place(path))

    def _place(self, path: KeyPath) -> Place:
        above = (path[:length] for length in range(len(path), 0, -1))
        return next((self.layer.places[at] for at in above if at in self.layer.places), self.file)

    def _value(self, path: KeyPath) -> Any:
        value: Any = self.layer.values
        for part in path:
            try:
                value = value[part]
            except (LookupError, TypeError):  # pydantic's own label within a union
                break
        return value

    def _holds_keys(self, path: KeyPath) -> bool:
        field = schema_fields().get(_schema_key(path))
        return not path or (field is not None and field.is_section)

    def _has_findings_inside(self, path: KeyPath) -> bool:
        return any(at[: len(path)] == path and at != path for at in self.locations)


def _outside_choices(value: object, choices: tuple[object, ...]) -> str:
    shown, more = choices, ""
    if len(choices) > _MANY_CHOICES:
        shown = tuple(nearest_values(value, choices, count=3, cutoff=0.0))
        more = f" or {len(choices) - len(shown)} more"
    listed = ", ".join(value_text(choice) for choice in shown)
    hint = did_you_mean([value_text(near) for near in nearest_values(value, choices)])
    return f"must be one of {listed}{more}, got {value_text(value)}{hint}"


def _remedy(kind: str, value: object, field: SchemaField | None) -> str:
    if kind in ("bool_type", "bool_parsing"):
        off, on = ("off", "no", "n", "0", "0.0", "false"), ("on", "yes", "y", "1", "1.0", "true")
        word = str(value).lower()
        return did_you_mean(["false"]) if word in off else did_you_mean(["true"]) if word in on else ""
    if field and field.nullable and str(value).lower() in ("none", "null", "nil"):
        return did_you_mean(["null"])
    if kind == "string_type" and isinstance(value, (int, float)):
        return " — put it in quotes"
    if kind == "tuple_type" and isinstance(value, dict):
        return " — a list is replaced as a whole, as in [a, b]"
    if isinstance(value, str) and kind in ("int_type", "float_type") and isinstance(plain_scalar(value), (int, float)):
        return " — remove the quotes"
    return ""


def _plain_numbers(context: Mapping[str, Any]) -> dict[str, Any]:
    return {name: f"{bound:g}" if isinstance(bound, float) else bound for name, bound in context.items()}


def _schema_key(path: KeyPath) -> str:
    return ".".join(part for part in path if isinstance(part, str))
