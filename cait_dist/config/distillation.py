"""A teacher that the network also learns from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from .section import Section, UserPath


class DistillationConfig(Section):
    """Hard distillation as in DeiT and CaiT, on the class token alone; or soft."""

    kind: Literal["none", "hard", "soft"] = Field(
        "none", description="hard: learn the class the teacher takes for right (the paper); soft: its probabilities"
    )
    alpha: float = Field(0.5, gt=0, le=1, description="share of the teacher in the loss, beside the labels")
    temperature: float = Field(1.0, gt=0, description="soft: by what both logits are divided")
    teacher: UserPath | None = Field(
        None, description="a run, one of its checkpoints, or a file of weights (.safetensors, .pth)"
    )
    teacher_model: str | None = Field(
        None, description="of a file of weights: a name of ours (cait_s24_224), or one of timm's (timm/regnety_160)"
    )
    teacher_weights: Literal["raw", "ema"] = Field("raw", description="of a run: raw, or ema, its moving average")
    labels: UserPath | None = Field(
        None,
        description="hard, in place of a teacher: what it said about each training image, as `cait evaluate` leaves it"
        " in RUN/evaluations/step-…/SET-raw.npz",
    )

    @model_validator(mode="after")
    def _settings_agree(self) -> "DistillationConfig":
        if problems := list(self._disagreements()):
            raise ValueError("\n".join(problems))
        return self

    def _disagreements(self) -> Iterator[str]:
        if self.kind == "none":
            for name in ("teacher", "labels"):
                if getattr(self, name) is not None:
                    yield f"{name} is given, but kind is 'none': set kind to hard or soft, or {name} to null"
            return
        if (self.teacher is None) == (self.labels is None):
            found = "none" if self.teacher is None else "both"
            yield f"kind '{self.kind}' needs one of teacher and labels, got {found}"
        if self.kind == "soft" and self.labels is not None:
            yield "labels hold no probabilities, which kind 'soft' learns: set kind to hard, or give a teacher"
        if self.kind == "hard" and self.temperature != 1:
            yield f"temperature {self.temperature:g} means nothing with kind 'hard': leave it out"
        if self.labels is not None and self.teacher_model is not None:
            yield "teacher_model belongs to a teacher, not to labels: leave it out"

    @property
    def source(self) -> Path | None:
        """What is learnt from besides the labels of the data; None without distillation."""
        return self.teacher or self.labels
