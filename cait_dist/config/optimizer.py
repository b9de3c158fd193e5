"""AdamW and its learning-rate schedule."""

from typing import Annotated, Literal

from pydantic import Field

from .section import Section

Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Section):
    """AdamW (Loshchilov & Hutter); biases, norms, LayerScale, class token and position embedding are not decayed."""

    lr: float = Field(5e-4, gt=0, description="peak learning rate, before lr_reference_batch is applied")
    lr_reference_batch: int | None = Field(
        None, ge=1, description="scale lr by global_batch / this (the paper's recipe: 512); null: use lr as it is"
    )
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="decay of the two moment estimates")
    eps: float = Field(1e-8, gt=0, description="added to the denominator")
    weight_decay: float = Field(0.05, ge=0, description="decoupled weight decay")
    clip_grad: float | None = Field(None, gt=0, description="largest global gradient norm; null: no clipping")


class ScheduleConfig(Section):
    """Learning rate over the run, as a pure function of the step."""

    kind: Literal["cosine", "constant"] = Field("cosine", description="shape after the warm-up")
    warmup_epochs: float = Field(5, ge=0, description="epochs of linear warm-up")
    warmup_lr: float = Field(1e-6, ge=0, description="learning rate of the very first step")
    min_lr: float = Field(1e-5, ge=0, description="learning rate at the end of the cosine")
