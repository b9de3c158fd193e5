"""What a word of YAML means, and how a value is spelled so that it means the same when read back.

YAML 1.1, which PyYAML implements, sets traps that cost days of training; the rules here are those of YAML 1.2:

==============  ====================  ==========
written         YAML 1.1 reads        here
==============  ====================  ==========
``1e-3``        the text "1e-3"       0.001
``no``, ``off`` false                 text
``1:30``        90                    text
``010``         8                     10
``2026-01-01``  a date                text
==============  ====================  ==========

What ``spell`` writes is read the same way by other programs too, whichever version they follow.
"""

from __future__ import annotations

import json
import re

import yaml

_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
_FLOAT = re.compile(
    r"[-+]?([0-9]+(_[0-9]+)*(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)"
    r"|\.(nan|NaN|NAN)"
)  # fmt: skip
_LONGEST_NUMBER = 300  # Python's own conversions overflow or refuse beyond it
_SAFE_WORD = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./+-]*")
_YAML_1_1 = yaml.resolver.Resolver()
_TEXT_TAG = "tag:yaml.org,2002:str"


def plain_scalar(text: str) -> str | int | float | bool | None:
    """What a word without quotes means: null, true, false, a decimal number, or else the text itself."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) <= _LONGEST_NUMBER:
        digits = text.replace("_", "")
        if _INT.fullmatch(text):
            return int(digits)
        if _FLOAT.fullmatch(text):
            return float(re.sub(r"\.(?=[in])", "", digits.lower()))
    return text


def spell(value: object) -> str:
    """One line of YAML for plain data (null, bool, numbers, text, lists, mappings); reading it gives the value back.

    Raises:
        TypeError: for anything that is not plain data.
    """
    if value is None or isinstance(value, int):
        return json.dumps(value)
    if isinstance(value, float):
        return _spell_float(value)
    if isinstance(value, str):
        return value if _is_safe_word(value) else _quote(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(spell, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{spell(key)}: {spell(inner)}" for key, inner in value.items()) + "}"
    raise TypeError(f"{type(value).__name__} is not plain data")


def _spell_float(value: float) -> str:
    text = repr(value).replace("inf", ".inf").replace("nan", ".nan")
    # A reader of YAML 1.1 takes 1e-06 for text, but 1.0e-06 for a number.
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _is_safe_word(text: str) -> bool:
    if not _SAFE_WORD.fullmatch(text) or text == "None" or not isinstance(plain_scalar(text), str):
        return False
    return _YAML_1_1.resolve(yaml.ScalarNode, text, (True, False)) == _TEXT_TAG


def _quote(text: str) -> str:
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf")).rstrip("\n")
