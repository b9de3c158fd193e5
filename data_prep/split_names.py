"""Tell from the names of shards which split they belong to.

Others keep their shards in folders ``train`` and ``val``, or in one folder (often ``data``) under names such as
``imagenet1k-train-0007.tar`` and ``validation-00003-of-00014.parquet``.
"""

from __future__ import annotations

import re
from pathlib import Path

from .errors import DataPrepError, some
from .split import require_split_name

_WORDS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_WORD = re.compile(r"(?:^|[^A-Za-z])(train|validation|valid|val|test)(?![A-Za-z])", re.IGNORECASE)
_FOLDERS = ("", "data", *_WORDS)


def find_shards(root: Path, suffix: str) -> list[Path]:
    """Files of a kind in a folder, its folder ``data`` and its splits' folders, sorted."""
    found = [path for folder in _FOLDERS for path in (root / folder).glob(f"*.{suffix}")]
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def files_by_split(root: Path, suffix: str, only_split: str) -> dict[str, list[Path]]:
    """Divide shards among splits.

    Args:
        root: the folder.
        suffix: of the files' names.
        only_split: what to call the only split, if no name tells one.

    Returns:
        Files by split; train, val and test in this order.

    Raises:
        DataPrepError: if only some of the names tell a split, or ``only_split`` contradicts them.
    """
    shards = find_shards(root, suffix)
    by_split: dict[str, list[Path]] = {}
    for path in shards:
        by_split.setdefault(_split_of(root, path), []).append(path)
    if set(by_split) == {""}:
        return {require_split_name(only_split): shards}
    if untold := by_split.get("", []):
        raise DataPrepError(
            f"{root}: the names of some files tell no split: {some([path.name for path in untold])}; "
            "move the files into folders train, val and test"
        )
    if only_split != "train":
        raise DataPrepError(f"{root}: the files' names tell their splits ({', '.join(by_split)}); leave out --split")
    return {name: by_split[name] for name in dict.fromkeys(_WORDS.values()) if name in by_split}


def _split_of(root: Path, path: Path) -> str:
    """The split that a shard's name tells, or else its folder's, or ""."""
    if words := {_WORDS[word.lower()] for word in _WORD.findall(path.stem)}:
        if len(words) > 1:
            raise DataPrepError(f"{path}: its name tells two splits; move the files into folders train, val and test")
        return words.pop()
    return _WORDS.get(path.parent.name, "") if path.parent != root else ""
