"""What the development kit of ILSVRC 2012 knows: the true class of every validation image.

The kit numbers classes 1 to 1000 in an order of its own. The numbers 0 to 999 that every published network answers with
are another thing: the place of the class's WordNet id (wnid) in the sorted list of all of them. Taking one for the
other gives labels that look right and an accuracy of 0.1 %. So a number of the kit is only ever used to look up the
wnid, in ``meta.mat``; that table also lists the inner nodes of the tree of classes, which have numbers above 1000 and
no images.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DataPrepError, some
from .mat_file import MatError, parse_mat

DEVKIT = "ILSVRC2012_devkit_t12"
META = "meta.mat"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
# The real ones have a tenth of this.
_MAX_FILE_BYTES = 16 * 2**20
_FETCH = f"fetch {DEVKIT}.tar.gz again"


@dataclass(frozen=True)
class Devkit:
    """The kit.

    Attributes:
        place: where it was read.
        wnids: WordNet id per number of the kit, only of classes that have images.
        truth: number of the class of validation image i + 1, at place i.
    """

    place: Path
    wnids: Mapping[int, str]
    truth: tuple[int, ...]

    def wnid_of_image(self, number: int) -> str:
        """WordNet id of the class of a validation image; images are numbered from 1."""
        return self.wnids[self.truth[number - 1]]


def read_devkit(root: Path) -> Devkit | None:
    """Read the kit in a folder, packed or unpacked; None if there is none.

    Raises:
        DataPrepError: if it is damaged.
    """
    folder, archive = root / DEVKIT, root / f"{DEVKIT}.tar.gz"
    if folder.is_dir():
        place, files = folder, _from_folder(folder)
    elif archive.is_file():
        place, files = archive, _from_archive(archive)
    else:
        return None
    for name in (META, TRUTH):
        if name not in files:
            raise DataPrepError(f"{place} lacks the file data/{name}; {_FETCH}")
    wnids = _parse_meta(place, files[META])
    return Devkit(place, wnids, _parse_truth(place, files[TRUTH], wnids))


def _from_folder(folder: Path) -> dict[str, bytes]:
    files = {}
    for name in (META, TRUTH):
        path = folder / "data" / name
        if path.is_file():
            with path.open("rb") as file:
                files[name] = _bounded(folder, name, path.stat().st_size, file)
    return files


def _from_archive(archive: Path) -> dict[str, bytes]:
    """The two files' content; everything else in the archive is passed over, and nothing is unpacked."""
    wanted = {f"{DEVKIT}/data/{name}": name for name in (META, TRUTH)}
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = wanted.get(member.name.removeprefix("./"))
                if name and member.isreg() and (content := tar.extractfile(member)) is not None:
                    files[name] = _bounded(archive, name, member.size, content)
                if len(files) == len(wanted):
                    break
    except DataPrepError:
        raise
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DataPrepError(f"{archive}: cannot be read ({error}); {_FETCH}") from None
    return files


def _bounded(place: Path, name: str, size: int, file: Any) -> bytes:
    if size > _MAX_FILE_BYTES:
        raise DataPrepError(f"{place}: data/{name} has {size:,} bytes, too many; {_FETCH}")
    return bytes(file.read(_MAX_FILE_BYTES))


def _parse_meta(place: Path, raw: bytes) -> dict[int, str]:
    """Number → wnid of the classes that have no classes below them."""
    try:
        synsets: Any = parse_mat(raw, ["synsets"])["synsets"]
        columns = (synsets[name] for name in ("num_children", "ILSVRC2012_ID", "WNID"))
        rows = [(int(children[0]), int(number[0]), wnid) for children, number, wnid in zip(*columns, strict=True)]
        pairs = [(number, str(wnid)) for children, number, wnid in rows if children == 0]
    except (MatError, KeyError, TypeError, IndexError, ValueError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataPrepError(f"{place}: data/{META} is no table of synsets ({reason}); {_FETCH}") from None
    wnids = dict(pairs)
    if not wnids or len(wnids) != len(pairs) or len(set(wnids.values())) != len(pairs):
        raise DataPrepError(f"{place}: data/{META} lists no classes, or a class twice; {_FETCH}")
    return wnids


def _parse_truth(place: Path, raw: bytes, wnids: Mapping[int, str]) -> tuple[int, ...]:
    try:
        truth = tuple(int(line) for line in raw.decode("ascii").split())
    except ValueError as error:
        raise DataPrepError(f"{place}: data/{TRUTH} is not a list of numbers ({error}); {_FETCH}") from None
    if unknown := sorted(set(truth) - set(wnids)):
        raise DataPrepError(f"{place}: data/{TRUTH} has class numbers that {META} does not: {some(unknown)}; {_FETCH}")
    return truth
