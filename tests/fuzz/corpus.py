"""Small real files to begin with, made by the program: what a fuzzer knows of the formats, it knows from these."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from cases import MEND, encode
from image_folders import encode as encode_image
from image_folders import picture, write_image_folder
from safetensors.torch import save_file
from targets import BETON, RANKS, SPLIT, TARGETS

from cait_dist.data.reader_webdataset import WebDatasetReader
from cait_dist.training.saving.checkpoint_files import complete_checkpoint, file_sha256
from data_prep.beton import ALLOCATION, TABLE, Layout, head_and_tail
from data_prep.beton_record import RECORD_VERSION, BetonRecord
from data_prep.formats import prepare
from data_prep.plan import make_plan
from data_prep.sources import FolderSource

Case = tuple[int, dict[str, bytes]]

_RUN = b"""base: base.yaml
name: tiny
data: {path: shards, workers: 0}
model: &model {image_size: 16, depth: 3, layer_scale_init: 1e-5}
augment: {hflip: 0.5, mixup: 0.8, mean: [0.5, 0.5, 0.5]}
evaluation:
  sets: [{name: val}, {name: again, split: val}]
  weights: [raw, ema]
"""
_BASE = b"""seed: 3
optimizer: {lr: 2e-3, betas: [0.9, 0.95]}
schedule: {warmup_epochs: 0}
training:
  epochs: 0.4
  zero: {stage: 2}
"""


def seeds(name: str, folder: Path) -> list[bytes]:
    """Cases of a target; the folder is for what it takes to make them."""
    made = {"config": _configs, "split": _splits, "tar": _tars, "checkpoint": _checkpoints}[name](folder)
    return [encode(flags, files, TARGETS[name].files) for flags, files in made]


def _configs(folder: Path) -> Iterator[Case]:
    yield 0, {"run.yaml": _RUN, "base.yaml": _BASE, "overrides": b"optimizer.lr=1e-3\ntraining.ema_decay=0.9"}
    yield 0, {"run.yaml": b"name: a\ndata:\n  path: b\nbase: [base.yaml, base.yaml]\n", "base.yaml": _BASE}
    yield (
        0,
        {"run.yaml": b"a: &a [1, 2]\nb: &b [*a, *a]\nname: *b\n'x': \"\\x41\"\n? k\n: |\n  text\n", "overrides": b"a"},
    )


def _splits(folder: Path) -> Iterator[Case]:
    images = write_image_folder(folder / "images", {"train": 12})
    prepare(make_plan(FolderSource(images), folder / "shards"), workers=1, progress=False)
    place = folder / "shards" / "train"
    files = {name: (place / name).read_bytes() for name in SPLIT if (place / name).is_file()} | _beton_of(place)
    files["real.json"] = json.dumps([[number % 5, 4] for number in range(12)]).encode()
    files["subset.txt"] = b"0\n7\n2\n3\n901\n"
    yield 0, files
    yield MEND, files
    yield MEND, {name: content for name, content in files.items() if name not in ("manifest.json", "train.beton.json")}


def _beton_of(place: Path) -> dict[str, bytes]:
    """As `write_ffcv` makes them, but with pages of 4 KiB instead of 8 MiB."""
    reader = WebDatasetReader(place)
    images = [reader.read(index) for index in range(reader.num_samples)]
    pointers = np.arange(1, len(images) + 1, dtype=np.uint64) * 4096
    layout = Layout(
        4096, pointers, 4096 * (len(images) + 1), 4096 * (len(images) + 1) + len(images) * ALLOCATION.itemsize
    )
    table = np.zeros(len(images), TABLE)
    table["size"], table["label"] = [len(image) for image in images], reader.labels
    table["width"], table["height"] = 40, 30
    head, tail = head_and_tail(layout, table)
    content = b"".join(part.ljust(4096, b"\0") for part in (head, *images)) + tail
    record = BetonRecord(
        "train", "a", "jpg", reader.class_names, reader.shard_sizes, len(content), "0" * 64, "1" * 64, "2"
    )
    return {BETON[0]: content, BETON[1]: json.dumps({"record_version": RECORD_VERSION, **asdict(record)}).encode()}


def _tars(folder: Path) -> Iterator[Case]:
    image = encode_image(picture(0))
    long_name = "/".join(["folder" * 8] * 4)
    for tar_format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w", format=tar_format) as tar:
            for name, part in (("a.jpg", image), ("a.cls", b"3"), (f"{long_name}/b.json", b'{"label": 1}'),
                               (f"{long_name}/b.png", image)):  # fmt: skip
                member = tarfile.TarInfo(name)
                member.size = len(part)
                tar.addfile(member, io.BytesIO(part))
        yield MEND, {"x.tar": content.getvalue()}
    yield 0, {"x.tar": gzip.compress(content.getvalue())}
    yield MEND, {"x.tar": _odd_members()}


def _odd_members() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.GNUTYPE_SPARSE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"a{kind.decode()}.jpg")
            member.type, member.pax_headers = kind, {"GNU.sparse.map": "0,1", "comment": "x"}
            tar.addfile(member)
    return content.getvalue()


def _checkpoints(folder: Path) -> Iterator[Case]:
    weights = {
        "cls_token": torch.ones(1, 1, 4),
        "head.weight": torch.arange(12.0).view(3, 4),
        "head.bias": torch.zeros(3),
    }
    files = _checkpoint_of(folder, weights)
    save_file(weights, folder / "w.safetensors")
    torch.save({"model": {f"module.{name}": tensor for name, tensor in weights.items()}, "epoch": 3}, folder / "w.pth")
    files |= {name: (folder / name).read_bytes() for name in ("w.safetensors", "w.pth")}
    torch.save({"model": {"module.pos_embed": torch.ones(1, 4, 6).transpose(1, 2)}}, folder / "one.pth")
    with zipfile.ZipFile(folder / "one.pth") as zipped:
        files["data.pkl"], files["storage"] = zipped.read("one/data.pkl"), zipped.read("one/data/0")
    yield 0, files
    yield MEND, files
    torch.save(weights, folder / "old.pth", _use_new_zipfile_serialization=False)
    yield MEND, {**files, "w.pth": (folder / "old.pth").read_bytes()}


def _checkpoint_of(folder: Path, weights: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """As two ranks would write it: each holds one half of the elements."""
    partial, final = folder / "step-00000010.partial", folder / "step-00000010"
    partial.mkdir(parents=True)
    for rank, name in enumerate(RANKS):
        pieces = {}
        for kind in ("master", "exp_avg", "ema"):
            for key, tensor in weights.items():
                half = tensor.numel() // 2
                start, end = (0, half) if rank == 0 else (half, tensor.numel())
                pieces[f"{kind}/{key}@{start}"] = tensor.flatten()[start:end].clone()
        save_file(pieces, partial / name)
    found = {name: {"bytes": (partial / name).stat().st_size, "sha256": file_sha256(partial / name)} for name in RANKS}
    shapes = {key: list(tensor.shape) for key, tensor in weights.items()}
    complete_checkpoint(
        partial, final, {"step": 10, "optimizer_steps": 10, "files": found, "shapes": shapes, "best": {}}
    )
    return {name: (final / name).read_bytes() for name in (*RANKS, "state.json", "COMPLETE")}
