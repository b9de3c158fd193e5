"""Evaluation sets as data."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from .section import Section, UserPath


class EvaluationSet(Section):
    """One labelled set of images."""

    name: str = Field("val", description="prefix of its metrics: NAME/top1")
    split: str = Field("val", description="split of the data")
    path: UserPath | None = Field(None, description="folder of the data, e.g. of ImageNet-V2; null: data.path")
    kind: Literal["top1", "real"] = Field(
        "top1", description="top1: the split's labels are right; real: any of ReaL's, from real.json beside the shards"
    )
    subset: UserPath | None = Field(
        None, description="file with a number per line: the model's output that is the set's class 0, 1, …; null: all"
    )

    @field_validator("name")
    @classmethod
    def _name_makes_a_metric(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError("must be letters, digits, '_' and '-'")
        return name

    @model_validator(mode="after")
    def _labels_are_of_one_kind(self) -> "EvaluationSet":
        if self.kind == "real" and self.subset is not None:
            raise ValueError(f"set '{self.name}' cannot be of kind 'real' and have a subset: leave one of them out")
        return self


class EvaluationConfig(Section):
    """What is measured while training, and how images are shown to the model for it."""

    every_epochs: float = Field(1, gt=0, description="epochs between two evaluations; the end is always evaluated")
    batch: int = Field(64, ge=1, description="images per rank and forward pass")
    crop_ratio: float = Field(1.0, gt=0, le=1, description="centre crop over short side (CaiT: 1.0, DeiT: 0.875)")
    weights: tuple[Literal["raw", "ema"], ...] = Field(("raw",), min_length=1, description="raw, ema or both")
    precision: Literal["fp32"] | None = Field(
        None, description="fp32: whatever training computes in (advised for M48); null: training.precision"
    )
    sets: tuple[EvaluationSet, ...] = Field((EvaluationSet(),), description="the sets; may be empty")

    @field_validator("sets")
    @classmethod
    def _names_differ(cls, sets: tuple[EvaluationSet, ...]) -> tuple[EvaluationSet, ...]:
        names = [s.name for s in sets]
        if len(set(names)) != len(names):
            raise ValueError(f"every set needs a name of its own, got {names}")
        return sets
