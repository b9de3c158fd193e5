"""The optimizer and its learning-rate schedule."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .section import Section

Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Section):
    """AdamW (Loshchilov & Hutter) or SGD; biases, norms, LayerScale, class token and positions are not decayed."""

    kind: Literal["adamw", "sgd"] = Field("adamw", description="adamw, or sgd: with momentum, for some transfers")
    lr: float = Field(5e-4, gt=0, description="peak learning rate, before lr_reference_batch is applied")
    lr_reference_batch: int | None = Field(
        None, ge=1, description="scale lr by global_batch / this (the paper's recipe: 512); null: use lr as it is"
    )
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="each layer further from the head learns at this times the rate; null: all alike"
    )
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="adamw: decay of the two moment estimates")
    eps: float = Field(1e-8, gt=0, description="adamw: added to the denominator")
    momentum: float = Field(0.9, gt=0, lt=1, description="sgd: share of the last update in the next")
    weight_decay: float = Field(0.05, ge=0, description="decoupled in adamw, added to the gradient in sgd")
    clip_grad: float | None = Field(None, gt=0, description="largest global gradient norm; null: no clipping")

    @model_validator(mode="after")
    def _settings_are_its_own(self) -> "OptimizerConfig":
        foreign = {"adamw": ("momentum",), "sgd": ("betas", "eps")}[self.kind]
        defaults = OptimizerConfig.model_fields
        if given := [name for name in foreign if getattr(self, name) != defaults[name].default]:
            raise ValueError(
                f"kind '{self.kind}' has no {' and no '.join(given)}: leave it out, or choose another kind"
            )
        return self


class ScheduleConfig(Section):
    """Learning rate over the run, as a pure function of the step."""

    kind: Literal["cosine", "constant"] = Field("cosine", description="shape after the warm-up")
    warmup_epochs: float = Field(5, ge=0, description="epochs of linear warm-up")
    warmup_lr: float = Field(1e-6, ge=0, description="learning rate of the very first step")
    min_lr: float = Field(1e-5, ge=0, description="learning rate at the end of the cosine")
