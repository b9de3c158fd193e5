"""The published results of CaiT (arXiv 2103.17239), and how far a run is from the one of its model.

A distance is a number only where the recipes are the same; else it is the list of reasons why there is none. Numbers of
which no public place could be found are not in the table.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..comparison import PaperDistance, PaperRow
from ..measures import result
from ..run_data import RunData
from ..wording import setting
from .paper_table1 import RECIPE as TABLE_1_RECIPE
from .paper_table1 import SIZE, TRAIN_IMAGES, Table1Cell, cell_of

METRIC = "val/top1"
VAL_IMAGES, CLASSES = 50_000, 1000
PRETRAINED_AT = SIZE

_ARCHITECTURE = ("patch_size", "embed_dim", "depth", "depth_token_only", "num_heads", "mlp_ratio")
"""Settings of the model that make another model of a variant."""

_DESIGN = {
    "residual": "layer_scale",
    "class_token": "class_attention",
    "class_attention_mlp": True,
    "talking_heads": True,
}
"""What a published CaiT is; another design may have as many parameters."""

# The authors' code and their answers in its issues: DeiT's recipe for 400 epochs, with repeated augmentation.
_RECIPE: dict[str, Any] = {
    "training.epochs": 400,
    "training.global_batch": 1024,
    "data.repeats": 3,
    "optimizer.weight_decay": 0.05,
    "optimizer.clip_grad": None,
    "schedule.kind": "cosine",
    "schedule.warmup_epochs": 5,
    "augment.rand_layers": 2,
    "augment.rand_magnitude": 9,
    "augment.erase_probability": 0.25,
    "augment.mixup": 0.8,
    "augment.cutmix": 1,
    "augment.label_smoothing": 0.1,
    "evaluation.crop_ratio": 1,
}
_LATER: dict[str, Any] = {"optimizer.kind": "adamw", "optimizer.layer_decay": None}
"""What runs of older versions do not tell, as they could do no other."""
# How models were fine-tuned is not public but for M48; what is known of all is how they were evaluated.
_FINE_TUNED: dict[str, Any] = {"evaluation.crop_ratio": 1}
_TEACHER: dict[str, Any] = {"distillation.alpha": 0.5, "distillation.teacher_model": "timm/regnety_160"}
_PEAK_LR = 1e-3
_DROP_PATH = {"XXS24": 0.05, "XXS36": 0.1, "XS24": 0.05, "XS36": 0.1, "S24": 0.1, "S36": 0.2, "M24": 0.2}


@cache
def paper_rows() -> tuple[PaperRow, ...]:
    """All published results of the models that have a source."""
    with Path(__file__).with_name("paper_rows.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            PaperRow(
                model=row["model"],
                image_size=int(row["image_size"]),
                distilled=row["distilled"] == "yes",
                top1=float(row["top1"]),
                parameters=int(row["parameters"]),
                macs=int(row["macs"]),
                source=row["source"],
            )
            for row in csv.DictReader(file)
        )


def paper_distance(run: RunData) -> PaperDistance:
    """The published result of a run's model or ablation, and the distance to it or why there is none."""
    cell = cell_of(run)
    found = _row_of(run) if cell is None else cell.row
    if isinstance(found, str):
        return PaperDistance(None, None, (found,))
    reasons = tuple(_model_distance_reasons(run, found) if cell is None else _cell_reasons(run, cell))
    return PaperDistance(found, None if reasons else result(run, METRIC) - found.top1, reasons)


def _row_of(run: RunData) -> PaperRow | str:
    name = str(run.config.get("model.name", ""))
    parts = name.split("_")
    if len(parts) != 3 or parts[0] != "cait":
        return f"{name or 'a model without a name'} is no CaiT of the paper"
    model, size = f"CaiT-{parts[1].upper()}", _image_size(run, parts[2])
    rows = [row for row in paper_rows() if row.model == model and row.image_size == size]
    if changed := _changed(run, rows):
        return f"{changed} makes another model than {model}"
    if not rows:
        return f"no published result of {model} at {size} pixels has a source"
    return min(rows, key=lambda row: row.distilled != _is_distilled(run))


def _is_distilled(run: RunData) -> bool:
    return setting(run.config.get("distillation.kind", "none")) != "none"


def _image_size(run: RunData, named: str) -> int:
    size = run.facts.image_size or run.config.get("model.image_size")
    return int(size) if size not in (None, "None") else int(named)


def _changed(run: RunData, rows: list[PaperRow]) -> str:
    """Settings that make another architecture; none if the number of parameters shows that they do not."""
    others = [key for key, usual in _DESIGN.items() if run.config.get(f"model.{key}", usual) != usual]
    if not others and any(run.facts.parameters == row.parameters for row in rows):
        return ""
    set_ones = [key for key in _ARCHITECTURE if setting(run.config.get(f"model.{key}")) != "null"] + others
    return ", ".join(f"{key}={setting(run.config[f'model.{key}'])}" for key in set_ones)


def _model_distance_reasons(run: RunData, row: PaperRow) -> Iterator[str]:
    yield from _teacher_reasons(run, row)
    if row.image_size != PRETRAINED_AT:
        if setting(run.config.get("model.init_from")) == "null":
            yield f"the published model was trained at {PRETRAINED_AT} pixels and fine-tuned at {row.image_size}"
        yield from _reasons(run, row, _FINE_TUNED)
        return
    drop_path = _DROP_PATH.get(row.model.removeprefix("CaiT-"))
    yield from _fresh_reasons(run, row, _RECIPE | ({} if drop_path is None else {"model.drop_path_rate": drop_path}))


def _teacher_reasons(run: RunData, row: PaperRow) -> Iterator[str]:
    """The published teacher is RegNetY-16GF, whose class is learnt."""
    if row.distilled != _is_distilled(run):
        yield f"{'the published model' if row.distilled else 'it'} was distilled from a teacher"
    elif row.distilled:
        yield from _recipe_reasons(run, {"distillation.kind": "hard", **_TEACHER})


def _cell_reasons(run: RunData, cell: Table1Cell) -> Iterator[str]:
    if not cell.finished:
        yield "the published run did not train to its end"
    yield from _fresh_reasons(run, cell.row, _RECIPE | TABLE_1_RECIPE)


def _fresh_reasons(run: RunData, row: PaperRow, recipe: Mapping[str, Any]) -> Iterator[str]:
    """Of a model that is trained from the beginning."""
    if setting(run.config.get("model.init_from")) != "null":
        yield "it did not start from fresh weights"
    yield from _reasons(run, row, recipe)
    known = {key: value for key, value in _LATER.items() if key in run.config}
    yield from _recipe_reasons(run, known)
    rate = _peak_lr(run)
    if rate is None or not math.isclose(rate, _PEAK_LR, rel_tol=1e-6):
        yield f"peak learning rate {'unknown' if rate is None else setting(rate)} instead of {_PEAK_LR:g}"


def _reasons(run: RunData, row: PaperRow, recipe: Mapping[str, Any]) -> Iterator[str]:
    yield from _model_reasons(run, row)
    yield from _data_reasons(run)
    yield from _recipe_reasons(run, recipe)
    if not run.finished:
        yield "it was not trained to its end"
    if METRIC not in run.curves:
        yield f"it has no {METRIC} of its raw weights"
    elif not math.isfinite(result(run, METRIC)):
        yield "it diverged"


def _model_reasons(run: RunData, row: PaperRow) -> Iterator[str]:
    classes = setting(run.config.get("model.num_classes"))
    if classes not in ("null", str(CLASSES)):
        yield f"{classes} classes instead of {CLASSES:,}"
    elif run.facts.parameters is None:
        yield "its number of parameters is not known"
    elif run.facts.parameters != row.parameters:
        yield f"{run.facts.parameters:,} parameters instead of {row.parameters:,}"


def _data_reasons(run: RunData) -> Iterator[str]:
    val = run.facts.sets.get("val")
    for images, wanted, what in (
        (run.facts.train_images, TRAIN_IMAGES, "training images"),
        (val.images if val else None, VAL_IMAGES, "validation images"),
    ):
        if images is None:
            yield f"its number of {what} is not known"
        elif images != wanted:
            yield f"{images:,} {what} instead of {wanted:,}"


def _recipe_reasons(run: RunData, recipe: Mapping[str, Any]) -> Iterator[str]:
    for key, value in recipe.items():
        have, want, name = setting(run.config.get(key)), setting(value), key.rpartition(".")[2]
        if key not in run.config:
            yield f"its {name} is not known"
        elif key == "training.epochs" and have != want:
            yield f"trained for {have} epochs instead of {want}"
        elif have != want:
            yield f"{name} {have} instead of {want}"


def _peak_lr(run: RunData) -> float | None:
    try:
        rate = float(run.config["optimizer.lr"])
        reference = setting(run.config.get("optimizer.lr_reference_batch"))
        return rate if reference == "null" else rate * float(run.config["training.global_batch"]) / float(reference)
    except (KeyError, TypeError, ValueError):
        return None
