"""The whole configuration of a run, composed from its sections, with the rules that span several of them."""

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from .augment import AugmentConfig
from .data import DataConfig
from .distillation import DistillationConfig
from .evaluation import EvaluationConfig
from .model import ModelConfig
from .optimizer import OptimizerConfig, ScheduleConfig
from .section import Section, UserPath
from .tracking import TrackingConfig
from .training import TrainingConfig


class RunConfig(Section):
    """Everything a run depends on. Written once, resolved, into the run directory."""

    name: str = Field(description="of the run: its directory is runs_dir/name")
    runs_dir: UserPath = Field(Path("runs"), description="folder that holds the run directories")
    seed: int = Field(0, ge=0, lt=2**32, description="decides weights, order, crops, mixing and dropped paths")
    model: ModelConfig = ModelConfig()
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    distillation: DistillationConfig = DistillationConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()

    @field_validator("name")
    @classmethod
    def _name_makes_a_directory(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError("must be letters, digits, '.', '_' and '-', beginning with a letter or digit")
        return name

    @model_validator(mode="after")
    def _sections_agree(self) -> "RunConfig":
        if problems := list(self._disagreements()):
            raise ValueError("\n".join(problems))
        return self

    def _disagreements(self) -> Iterator[str]:
        evaluation, training, schedule = self.evaluation, self.training, self.schedule
        if "ema" in evaluation.weights and training.ema_decay is None:
            yield "evaluation.weights asks for 'ema', but training.ema_decay is null: set it, e.g. 0.9999"
        if self.augment.mixes and training.global_batch % 2:
            yield (
                f"mixup and cutmix blend neighbours, so training.global_batch must be even, got {training.global_batch}"
            )
        if schedule.warmup_epochs > training.epochs:
            yield f"schedule.warmup_epochs ({schedule.warmup_epochs:g}) exceeds training.epochs ({training.epochs:g})"

    @property
    def run_dir(self) -> Path:
        """Directory of this run."""
        return self.runs_dir / self.name
