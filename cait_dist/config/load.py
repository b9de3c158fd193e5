"""From files and ``key=value`` arguments to one validated ``RunConfig`` that knows where each value came from.

Later wins: the schema's defaults, the files named by ``base:`` (a later one over an earlier), the file itself, the
command line. Mappings are laid over each other key by key; every other value, lists included, is replaced as a whole.

A name in ``base:`` is relative to the file that holds it, so that a folder of configurations can be moved. A path
that is a *setting* (``data.path``, ``runs_dir``, …) is relative to the directory the command runs in, whichever file
sets it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .errors import ConfigError, KeyPath, Place, Problem, value_text
from .explain import explain
from .fields import schema_fields
from .run import RunConfig
from .suggest import did_you_mean
from .yaml_places import MAX_DEPTH, Layer, parse_file, parse_value

MAX_BYTES = 256 * 1024
MAX_CHAIN = 32
DEFAULT = "default"

Chain = tuple[tuple[Path, str], ...]  # the files being read, outermost first: where each is and how it is shown


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration and, for every dotted key of it, the place its value comes from.

    An origin is ``configs/x.yaml:3:5``, ``command line 'optimizer.lr=1e-3'`` or ``default``. A list has one origin.
    """

    config: RunConfig
    origins: dict[str, str]
    files: frozenset[Path]
    """every file that was read: the one asked for, and what it builds on"""


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read a configuration file with everything it builds on, lay the overrides over it, and validate the result.

    Args:
        path: a YAML file, see the module's text.
        overrides: ``key=value`` each: a dotted key, and a value written as in YAML (``optimizer.betas=[0.9, 0.95]``,
            ``training.ema_decay=null``; nothing after the ``=`` is null). A later one wins over an earlier.

    Returns:
        The configuration and the origin of each of its values.

    Raises:
        ConfigError: with every problem found. Only what hides the rest is reported alone: a file that cannot be read
            as YAML; and rules between several fields are checked once every field by itself is right.
    """
    shown = os.path.normpath(path)
    files = _Files()
    layer = files.read(Path(path), shown, asked_by=None, chain=())
    problems = files.problems
    for index, text in enumerate(overrides):
        try:
            above, found = _parse_override(text, index)
        except ConfigError as error:
            problems += error.problems
        else:
            problems += found
            layer = overlay(layer, above)
    if files.incomplete:
        raise ConfigError(problems)
    try:
        # Strict, so that 400.5, "400" and true are no whole numbers; as JSON, so that text may still become a path.
        config = RunConfig.model_validate_json(json.dumps(_whole_floats_as_ints(layer.values)), strict=True)
    except ValidationError as error:
        raise ConfigError([*problems, *explain(error, layer, shown)]) from None
    if problems:
        raise ConfigError(problems)
    return LoadedConfig(config, _origins(layer), files.read_so_far)


def overlay(below: Layer, above: Layer) -> Layer:
    """``above`` laid over ``below``: mappings key by key, any other value replaced together with its places."""
    replaced: set[KeyPath] = set()
    opened: set[KeyPath] = set()
    values = _merge(below.values, above.values, (), replaced, opened)
    kept = {
        path: place
        for path, place in below.places.items()
        if not any(path[:length] in replaced for length in range(1, len(path) + 1))
    }
    # A section that a file opened stays with the file: an override of one key in it says nothing about the section.
    added = {path: place for path, place in above.places.items() if not (place.typed and path in opened)}
    return Layer(values, kept | added)


def _merge(
    below: dict[str, Any], above: dict[str, Any], path: KeyPath, replaced: set[KeyPath], opened: set[KeyPath]
) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        here = (*path, key)
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            opened.add(here)
            merged[key] = _merge(below[key], value, here, replaced, opened)
        else:
            replaced.add(here)
            merged[key] = value
    return merged


def _parse_override(text: str, index: int) -> tuple[Layer, list[Problem]]:
    place = Place(f"command line {value_text(text, 200)}", argument=index)
    key, equals, written = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals:
        raise ConfigError([Problem("expected key=value", place)])
    if path == ("base",):
        raise ConfigError([Problem("'base' belongs in a file, not on the command line", place)])
    if not all(part and part.isprintable() for part in path) or len(path) > MAX_DEPTH:
        raise ConfigError([Problem(f"{value_text(key)} is not a dotted key like 'optimizer.lr'", place)])
    return parse_value(written, path, place)


@dataclass
class _Files:
    """Reads files with their bases, each file once."""

    problems: list[Problem] = field(default_factory=list)
    incomplete: bool = False
    _layers: dict[Path, Layer] = field(default_factory=dict)

    @property
    def read_so_far(self) -> frozenset[Path]:
        return frozenset(self._layers)

    def read(self, path: Path, shown: str, asked_by: Place | None, chain: Chain) -> Layer:
        """The file laid over its bases. What cannot be read is noted, and reads as nothing."""
        try:
            real = _find(path, shown, asked_by)
            if real not in self._layers:
                _check_chain(real, shown, asked_by, chain)
                self._layers[real] = self._read_new(path, shown, asked_by, (*chain, (real, shown)))
            return self._layers[real]
        except ConfigError as error:
            self.problems += error.problems
            self.incomplete = True
            return Layer()

    def _read_new(self, path: Path, shown: str, asked_by: Place | None, chain: Chain) -> Layer:
        layer, found = parse_file(_read_text(path, shown, asked_by), shown)
        self.problems += found
        merged = Layer()
        for name, place in _bases(layer, shown):
            base_shown = os.path.normpath(Path(shown).parent / name)
            merged = overlay(merged, self.read(path.parent / name, base_shown, place, chain))
        own = {key: value for key, value in layer.values.items() if key != "base"}
        return overlay(merged, Layer(own, layer.places))


def _bases(layer: Layer, shown: str) -> list[tuple[str, Place]]:
    if "base" not in layer.values:
        return []
    place, value = layer.places[("base",)], layer.values["base"]
    names = value if isinstance(value, list) else [value]
    if len(names) > MAX_CHAIN:
        raise ConfigError([Problem(f"'base': names {len(names)} files, possible are {MAX_CHAIN}", place)])
    for name in names:
        if not isinstance(name, str) or not name:
            message = f"'base': must be the name of a file or a list of them, got {value_text(value)}"
            raise ConfigError([Problem(message, place)])
    return [(name, layer.places.get(("base", index), place)) for index, name in enumerate(names)]


def _check_chain(real: Path, shown: str, asked_by: Place | None, chain: Chain) -> None:
    names = [name for _, name in chain] + [shown]
    if real in [seen for seen, _ in chain]:
        circle = " → ".join(names[[seen for seen, _ in chain].index(real) :])
        raise ConfigError([Problem(f"'base': the files build on each other in a circle: {circle}", asked_by)])
    if len(names) > MAX_CHAIN:
        raise ConfigError([Problem(f"'base': more than {MAX_CHAIN} files build on each other", asked_by)])


def _find(path: Path, shown: str, asked_by: Place | None) -> Path:
    try:
        if path.is_dir():
            message = f"'{shown}' is a folder, not a file{_likely_files(path, shown, '')}"
        elif asked_by is not None and path.exists() and not path.is_file():
            # What a user names may be a pipe; what a file names could be one that nobody ever fills.
            message = f"'{shown}' is no plain file"
        elif not path.exists():
            message = f"there is no file '{shown}'{_likely_files(path.parent, str(Path(shown).parent), path.name)}"
        else:
            return path.resolve()
    except (OSError, ValueError, RuntimeError):  # too long, links in a circle, a folder that may not be read
        message = f"{value_text(shown)} is not a file that can be read"
    raise ConfigError([Problem(message, asked_by)])


def _read_text(path: Path, shown: str, asked_by: Place | None) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) <= MAX_BYTES:
            return content.decode("utf-8-sig")
        message = f"'{shown}' is larger than {MAX_BYTES // 1024} KiB: this is no configuration file"
    except OSError as error:
        message = f"'{shown}' cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        message = f"'{shown}' is not UTF-8 text (line {line}): this is no configuration file"
    raise ConfigError([Problem(message, asked_by)])


def _likely_files(folder: Path, shown: str, name: str) -> str:
    if not folder.is_dir():
        return f": there is no folder '{shown}'"
    files = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    near = get_close_matches(name, files, 3, 0.6) if name else [file for file in files if file.endswith(".yaml")][:3]
    return did_you_mean([f"'{os.path.normpath(Path(shown) / file)}'" for file in near])


def _whole_floats_as_ints(value: Any) -> Any:
    """2e8 is a whole number, however it is written; a field for numbers with a fraction takes either."""
    if isinstance(value, dict):
        return {key: _whole_floats_as_ints(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole_floats_as_ints(inner) for inner in value]
    # Beyond 2**53 not every whole number is a float, so the one written may not be the one meant.
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _origins(layer: Layer) -> dict[str, str]:
    origins = {}
    for key, found in schema_fields().items():
        if found.is_leaf:
            place = layer.places.get(tuple(key.split(".")))
            origins[key] = str(place) if place else DEFAULT
    return origins
