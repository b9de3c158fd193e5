"""Table 1 of the paper: DeiT-S at four depths, stabilised in several ways, and which run repeats a cell of it.

A run has a cell only if everything that names the cell is the same: network, design of the residual, depth, stochastic
depth, number of epochs and images. There is no nearest cell.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..comparison import PaperRow
from ..run_data import RunData
from ..wording import setting

SIZE, TRAIN_IMAGES = 224, 1_281_167
RECIPE = {"training.epochs": 300, "evaluation.crop_ratio": 0.875}
"""What differs from the recipe of the models. The crop ratio has no public source: DeiT's."""

_NETWORK = {
    "patch_size": 16,
    "embed_dim": 384,
    "num_heads": 6,
    "mlp_ratio": 4,
    "class_token": "from_start",
    "talking_heads": False,
    "layer_scale_init": None,  # by depth, as the paper's
}
_VARIANT = {"patch_size": 16, "embed_dim": 384, "num_heads": 8, "mlp_ratio": 4}
"""What `null` stands for in a configuration that begins at one of `_NAMED`."""
_NAMED = {"cait_s24_224": 24, "cait_s36_224": 36, "cait_s48_224": 48}


@dataclass(frozen=True)
class Table1Cell:
    """A number of the table.

    Attributes:
        residual: as `model.residual` spells it.
        depth: number of blocks.
        drop_path_rate: of stochastic depth.
        finished: whether the published training reached its end.
        row: what was published.
    """

    residual: str
    depth: int
    drop_path_rate: float
    finished: bool
    row: PaperRow


@cache
def table1() -> tuple[Table1Cell, ...]:
    """All its cells; parameters and multiply-adds are counted, not published."""
    with Path(__file__).with_name("paper_table1.csv").open(encoding="utf-8", newline="") as file:
        return tuple(_cell(row) for row in csv.DictReader(file))


def cell_of(run: RunData) -> Table1Cell | None:
    """The cell that a run repeats, None if there is none."""
    model = {key.removeprefix("model."): value for key, value in run.config.items() if key.startswith("model.")}
    name = str(model.get("name"))
    if name not in _NAMED or run.facts.train_images not in (None, TRAIN_IMAGES):
        return None
    shown = run.facts.image_size or _number(model.get("image_size"), SIZE)
    if shown != SIZE or setting(run.config.get("training.epochs")) != setting(RECIPE["training.epochs"]):
        return None
    known = {**model, **{key: _number(model.get(key), usual) for key, usual in _VARIANT.items()}}
    if any(setting(known.get(key)) != setting(wanted) for key, wanted in _NETWORK.items()):
        return None
    depth, rate = _number(model.get("depth"), _NAMED[name]), _number(model.get("drop_path_rate"), math.nan)
    return next(
        (c for c in table1() if (c.residual, c.depth) == (model.get("residual"), depth) and c.drop_path_rate == rate),
        None,
    )


def _cell(row: Mapping[str, str]) -> Table1Cell:
    return Table1Cell(
        residual=row["residual"],
        depth=int(row["depth"]),
        drop_path_rate=float(row["drop_path_rate"]),
        finished=row["finished"] == "yes",
        row=PaperRow(
            model=f"DeiT-S with {row['depth']} blocks, {row['residual']}, drop path {row['drop_path_rate']}",
            image_size=SIZE,
            distilled=False,
            top1=float(row["top1"]),
            parameters=int(row["parameters"]),
            macs=int(row["macs"]),
            source=row["source"],
        ),
    )


def _number(value: Any, usual: float) -> float:
    """Of a setting, that a run read from MLflow has as text."""
    try:
        return usual if setting(value) == "null" else float(value)
    except (TypeError, ValueError):
        return math.nan
