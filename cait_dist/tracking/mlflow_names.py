"""What MLflow takes as names and values, and how ours are fitted to it.

A name or a value that MLflow refuses makes it refuse the whole batch, so everything passes through here.
"""

import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MAX_NAME, MAX_PARAM, MAX_TAG = 250, 6000, 8000
MAX_ITEMS, MAX_BYTES = 100, 500_000
"""Parameters or tags in one request; MLflow refuses one of more than a million bytes."""
_REFUSED = re.compile(r"[^/\w.\- :]")


def safe_name(name: str) -> str:
    """The same name with an underscore for each character, or empty part between slashes, that MLflow refuses."""
    parts = _REFUSED.sub("_", name).split("/")
    text = "/".join("_" if part in ("", ".", "..") else part for part in parts)
    return text if len(text) <= MAX_NAME else _marked(text[: MAX_NAME - 9], name)


def safe_names(names: Iterable[str]) -> dict[str, str]:
    """Safe names of metrics that are sent together, no two alike: ``acc@1`` and ``acc(1`` both want ``acc_1``."""
    found: dict[str, str] = {}
    wanted = [(name, safe_name(name)) for name in names]
    # A name that needs no change keeps it, whoever else wants it.
    for name, safe in sorted(wanted, key=lambda pair: (pair[0] != pair[1], pair[0])):
        found[name] = _marked(safe[: MAX_NAME - 9], name) if safe in found.values() else safe
    return found


def clean_text(value: Any, longest: int) -> str:
    """A value as text that every database takes, cut with an ellipsis where it is too long."""
    text = str(value).replace("\0", "�").encode("utf-8", "replace").decode()
    return text if len(text) <= longest else text[: longest - 1] + "…"


def finite_or_nan(value: float) -> float:
    """MLflow would keep an infinity as the largest number there is."""
    return value if math.isfinite(value) else math.nan


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a line of the metrics file; what is no number is left out."""
    found = {}
    for key, value in row.items():
        if key not in ("step", "time"):
            try:
                found[key] = float(value)
            except (TypeError, ValueError):
                continue
    return found


def packed(texts: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The texts in portions that MLflow takes in one request."""
    portion: dict[str, str] = {}
    size = 0
    for name, text in texts.items():
        weight = len(json.dumps(text)) + len(json.dumps(name))
        if portion and (len(portion) == MAX_ITEMS or size + weight > MAX_BYTES):
            yield portion
            portion, size = {}, 0
        portion[name] = text
        size += weight
    if portion:
        yield portion


def _marked(text: str, name: str) -> str:
    return f"{text}-{zlib.crc32(name.encode('utf-8', 'replace')):08x}"
