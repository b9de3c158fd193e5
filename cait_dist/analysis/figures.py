"""Each analysis from beginning to end: measure, write the values, draw the picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import draw
from .attention_maps import measure_maps
from .images import Shown, choose_images, in_batches
from .residual_norms import measure_ratios
from .subject import Subject
from .weights_of_layers import head_mixing, layer_scales

Progress = Callable[[Iterable[Tensor], int], Iterable[Tensor]]
"""Passes batches on and shows how many of how many there were."""


def residual_norms(
    subject: Subject, out: Path, places: Sequence[Path], count: int, batch: int, progress: Progress
) -> list[Path]:
    """Ratio of what each branch adds to what it adds to.

    Args:
        subject: the model
        out: folder to write into
        places: of images; empty for the run's own
        count: most images
        batch: images at once
        progress: see `Progress`

    Returns:
        the files written

    Raises:
        AnalysisError: if something is missing for it
    """
    device = _device()
    model = subject.model(device)
    images = choose_images(subject, places, count, model.arch.image_size)
    ratios = measure_ratios(model, _watched(images, subject, batch, device, progress))
    layers = [asdict(ratio) for ratio in ratios]
    values = {
        "what": "norm of what a branch adds over norm of the stream that it is added to, per token; mean over all",
        "quantiles": "10 %, 50 %, 90 % over tokens and images",
        "images": len(images),
        "layers": layers,
    }
    files = [_write(out / "residual-norms.json", subject, values)]
    return [*files, draw.residual_norms(ratios, subject, len(images), out / "residual-norms.svg")]


def attention_maps(
    subject: Subject, out: Path, places: Sequence[Path], count: int, batch: int, progress: Progress
) -> list[Path]:
    """Where the class token looks; arguments as `residual_norms`."""
    import numpy as np  # noqa: PLC0415

    device = _device()
    model = subject.model(device)
    images = choose_images(subject, places, count, model.arch.image_size)
    maps, own, logits = measure_maps(model, _watched(images, subject, batch, device, progress))
    out.mkdir(parents=True, exist_ok=True)
    values = out / "attention-maps.npz"
    np.savez_compressed(values, maps=maps.numpy(), self=own.numpy(), images=np.array([image.name for image in images]))
    return [
        values,
        draw.attention_maps(images, maps, own, logits.argmax(1).tolist(), subject, out / "attention-maps.png"),
    ]


def layer_scale(subject: Subject, out: Path) -> list[Path]:
    """Size of LayerScale's weights per layer."""
    scales = layer_scales(subject)
    values = {
        "what": "|γ| over the channels of a branch: mean and quantiles; share of γ below zero",
        "quantiles": "5 %, 25 %, 50 %, 75 %, 95 %",
        "started_at": subject.scale_start,
        "layers": [asdict(scale) for scale in scales],
    }
    files = [_write(out / "layer-scale.json", subject, values)]
    return [*files, draw.layer_scale(scales, subject, out / "layer-scale.svg")]


def mixing(subject: Subject, out: Path) -> list[Path]:
    """The matrices that mix the heads of self-attention."""
    matrices = head_mixing(subject)
    values = {
        "what": "row i: the weights with which heads make head i, before the softmax (proj_l) and after it (proj_w)",
        "layers": [{"proj_l": before.tolist(), "proj_w": after.tolist()} for before, after in matrices],
    }
    files = [_write(out / "head-mixing.json", subject, values)]
    return [*files, draw.head_mixing(matrices, subject, out / "head-mixing.svg")]


def _watched(
    images: Sequence[Shown], subject: Subject, batch: int, device: torch.device, progress: Progress
) -> Iterator[Tensor]:
    yield from progress(in_batches(images, subject, batch, device), -(-len(images) // batch))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _write(path: Path, subject: Subject, values: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**subject.source, **values}, indent=1, ensure_ascii=False) + "\n")
    return path
