"""The four readers of what comes from outside, as fuzzers call them: from a case's files to what is read of them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cases import MEND, decode

from cait_dist.config import load_config
from cait_dist.data.reader_webdataset import open_split
from cait_dist.data.true_labels import read_real_labels, read_subset
from cait_dist.models.weights import read_state_dict
from cait_dist.training.saving.checkpoint import read_weights
from cait_dist.training.saving.checkpoint_files import list_checkpoints
from data_prep.foreign_tars import foreign_samples
from data_prep.gzip_tar import opened_tar
from data_prep.tar_walk import View, opened, walk
from data_prep.webdataset_source import open_tars

Readers = list[Callable[[], object]]
_NO_SUCH_ENTRY = (ValueError, RecursionError, KeyError, TypeError, IndexError, AttributeError)
"""Where there is none, there is no checksum to mend."""


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes:
        files: names of a case's files, in their order in its bytes.
        readers: from (flags, files, an empty folder) to what is to be called.
    """

    files: Sequence[str]
    readers: Callable[[int, dict[str, bytes], Path], Readers]

    def of(self, case: bytes, folder: Path) -> Readers:
        """What is to be called for a case; its files are written into the folder."""
        return self.readers(*decode(case, self.files), folder)


def _config(flags: int, files: dict[str, bytes], folder: Path) -> Readers:
    for name in ("run.yaml", "base.yaml"):
        (folder / name).write_bytes(files[name])
    overrides = files["overrides"].decode("utf-8", "surrogateescape").split("\n") if files["overrides"] else []
    return [lambda: load_config(folder / "run.yaml", overrides)]


SPLIT = ("manifest.json", "samples.npy", "train-000000.tar", "sources.txt.gz", "real.json", "subset.txt")
BETON = ("train.beton", "train.beton.json")


def _split(flags: int, files: dict[str, bytes], folder: Path) -> Readers:
    files = _with_true_manifest(files) if flags & MEND else files
    for place, names in (("tars", SPLIT), ("betons", (*BETON, "sources.txt.gz"))):
        (folder / place / "train").mkdir(parents=True, exist_ok=True)
        for name in names:
            _write(folder / place / "train" / name, files[name])
    labels = folder / "tars" / "train" / "subset.txt"

    def read(place: str, storage: str) -> object:
        reader = open_split(folder / place, "train", storage)  # type: ignore[arg-type]
        return reader.read(0), reader.read(reader.num_samples - 1), reader.digest, reader.locate(0)

    def names() -> object:
        return open_split(folder / "tars", "train").source_name(0)

    return [
        lambda: read("tars", "webdataset"),
        lambda: read("betons", "ffcv"),
        names,
        lambda: read_real_labels(folder / "tars", "train", 12, 5),
        lambda: read_subset(labels, 5),
    ]


def _with_true_manifest(files: dict[str, bytes]) -> dict[str, bytes]:
    with contextlib.suppress(*_NO_SUCH_ENTRY):
        content = json.loads(files["manifest.json"])
        content.pop("content_sha256", None)
        content["samples_sha256"] = hashlib.sha256(files["samples.npy"]).hexdigest()
        content["shards"][0]["bytes"] = len(files["train-000000.tar"])
        files = {**files, "manifest.json": json.dumps(content).encode()}
    with contextlib.suppress(*_NO_SUCH_ENTRY):
        record = json.loads(files["train.beton.json"])
        record["bytes"] = len(files["train.beton"])
        files = {**files, "train.beton.json": json.dumps(record).encode()}
    return files


def _tar(flags: int, files: dict[str, bytes], folder: Path) -> Readers:
    (folder / "source").mkdir(exist_ok=True)
    path = folder / "source" / "x.tar"
    path.write_bytes(_with_true_headers(files["x.tar"]) if flags & MEND else files["x.tar"])

    def within() -> object:
        with opened(path) as file:
            return list(walk(path, View(file, 0, len(files["x.tar"]))))

    def packed() -> object:
        with opened_tar(path) as file:
            return list(walk(path, file))

    return [lambda: list(foreign_samples(path)), within, packed, lambda: open_tars(folder / "source")]


def _with_true_headers(raw: bytes) -> bytes:
    """The checksum of each header made right; where a header is none, the walk ends there anyway."""
    content, at = bytearray(raw), 0
    for _ in range(64):
        block = content[at : at + 512]
        if len(block) < 512 or not any(block):
            break
        block[148:156] = b" " * 8
        content[at + 148 : at + 156] = b"%06o\0 " % sum(block)
        try:
            size = int(bytes(block[124:136]).strip(b"\0 ") or b"0", 8)
        except ValueError:
            size = 0
        at += 512 + (-(-size // 512) * 512 if 0 <= size < 1 << 20 else 0)
    return bytes(content)


RANKS = ("rank-00000.safetensors", "rank-00001.safetensors")


def _checkpoint(flags: int, files: dict[str, bytes], folder: Path) -> Readers:
    place = folder / "checkpoints" / "step-00000010"
    place.mkdir(parents=True, exist_ok=True)
    if flags & MEND:
        files = _with_true_digests(files)
    for name in (*RANKS, "state.json", "COMPLETE"):
        _write(place / name, files[name])
    for name in ("w.safetensors", "w.pth"):
        (folder / name).write_bytes(files[name])
    (folder / "packed.pth").write_bytes(_packed(files["data.pkl"], files["storage"]))

    def read() -> object:
        found = list_checkpoints(folder / "checkpoints")
        return [(one.step, one.damage(), read_weights(one, kind)) for one in found for kind in ("master", "ema")]

    weights = [folder / name for name in ("w.safetensors", "w.pth", "packed.pth")]
    return [read, *((lambda path=path: read_state_dict(path)) for path in weights)]


def _with_true_digests(files: dict[str, bytes]) -> dict[str, bytes]:
    with contextlib.suppress(*_NO_SUCH_ENTRY):
        state = json.loads(files["state.json"])
        for name in RANKS:
            if name in state["files"]:
                state["files"][name]["bytes"] = len(files[name])
                state["files"][name]["sha256"] = hashlib.sha256(files[name]).hexdigest()
        files = {**files, "state.json": json.dumps(state).encode()}
    return {**files, "COMPLETE": hashlib.sha256(files["state.json"]).hexdigest().encode()}


def _packed(pickled: bytes, storage: bytes) -> bytes:
    """The zip that torch reads, whose checksums are right whatever lies in it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as file:
        for name, part in (("data.pkl", pickled), ("byteorder", b"little"), ("data/0", storage), ("version", b"3\n")):
            file.writestr(f"w/{name}", part)
    return content.getvalue()


def _write(path: Path, content: bytes) -> None:
    """An empty file stands for none."""
    if content:
        path.write_bytes(content)
    else:
        path.unlink(missing_ok=True)


WEIGHTS = ("w.safetensors", "w.pth", "data.pkl", "storage")
TARGETS = {
    "config": Target(("run.yaml", "base.yaml", "overrides"), _config),
    "split": Target((*SPLIT, *BETON), _split),
    "tar": Target(("x.tar",), _tar),
    "checkpoint": Target((*RANKS, "state.json", "COMPLETE", *WEIGHTS), _checkpoint),
}
