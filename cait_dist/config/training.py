"""The training loop: how long, how large, in which precision, on how many shards of state."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from .section import Section


def _check_policy(value: str) -> str:
    if value not in ("none", "attention", "block") and not re.fullmatch(r"every-[1-9]\d*", value):
        raise ValueError("must be 'none', 'attention', 'block' or 'every-K' (every-2: every second block)")
    return value


def _not_bool(value: object) -> object:
    # 1 == True in Python, so `stage: true` would otherwise be taken for stage 1.
    if isinstance(value, bool):
        raise ValueError("must be 0, 1, 2 or 3")
    return value


class ZeroConfig(Section):
    """DeepSpeed ZeRO: what is partitioned over the ranks."""

    stage: Annotated[Literal[0, 1, 2, 3], BeforeValidator(_not_bool)] = Field(
        1, description="0 nothing, 1 optimizer state, 2 + gradients, 3 + parameters"
    )
    bucket_size: int = Field(200_000_000, ge=1, description="elements communicated at once")
    overlap_comm: bool = Field(True, description="reduce gradients while the backward pass goes on (GPU only)")
    param_persistence_threshold: int = Field(
        100_000, ge=0, description="stage 3: smaller parameters stay on every rank"
    )


class CheckpointConfig(Section):
    """When the run is saved, and how many of the saves are kept."""

    every_epochs: float | None = Field(
        1, gt=0, description="save after this many epochs; null: only by steps or at the end"
    )
    every_steps: int | None = Field(None, ge=1, description="save after this many steps, besides every_epochs")
    keep: int = Field(3, ge=2, description="newest checkpoints to keep; never fewer than two")
    keep_every_epochs: float | None = Field(
        None, gt=0, description="the checkpoint that completes this many epochs, and every as many, is kept for good"
    )
    asynchronous: bool = Field(
        True, description="training goes on while a checkpoint is written; costs its size once in memory of the host"
    )


class RollbackConfig(Section):
    """Going back to the last good checkpoint, past the data that did harm."""

    at_most: int = Field(
        3,
        ge=0,
        description="times per run that training goes back when too many steps in a row are left out, or the loss"
        " spikes; 0: it ends at once",
    )
    spike: float | None = Field(
        None,
        gt=0,
        description="a loss is high above median + spike * (distance of the quartiles) of the losses before; null: no"
        " loss is",
    )
    spike_window: int = Field(
        100, ge=8, description="losses that a loss is held against; before there are so many none is high"
    )
    spike_steps: int = Field(5, ge=1, description="high losses in a row that are a spike")


class TrainingConfig(Section):
    """The loop itself."""

    epochs: float = Field(400, gt=0, description="how often the data set is seen (repeated copies count)")
    global_batch: int = Field(1024, ge=1, description="samples per optimizer step over all ranks")
    micro_batch_limit: int | None = Field(
        None, ge=1, description="most samples per rank and forward pass; null: no limit"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "bf16", description="of the matrix products; softmax, LayerScale, loss stay fp32"
    )
    activation_checkpointing: Annotated[str, AfterValidator(_check_policy)] = Field(
        "none", description="none | attention | block | every-K: what is recomputed in the backward pass"
    )
    compile: bool = Field(
        False, description="compile the branches of the self-attention blocks with torch.compile; not at ZeRO stage 3"
    )
    float8: bool = Field(
        False,
        description="outputs and input gradients of the self-attention blocks' linear layers by products of 8 bits;"
        " beside bf16",
    )
    zero: ZeroConfig = ZeroConfig()
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="decay of the weights' moving average; null: none is kept"
    )
    checkpoint: CheckpointConfig = CheckpointConfig()
    log_every: int = Field(10, ge=1, description="steps between two lines of metrics.jsonl")
    health_every: int | None = Field(
        100, ge=1, description="steps between two looks at norms and attention logits; null: none"
    )
    most_skipped_steps: int = Field(
        10, ge=1, description="steps in a row that are left out, as their gradient is not finite, before it goes back"
    )
    rollback: RollbackConfig = RollbackConfig()
    collective_timeout: float = Field(600, gt=0, description="seconds after which a silent rank ends the run")
    hang_timeout: float | None = Field(
        None,
        gt=0,
        description="seconds without progress after which the ranks say whom they wait for, and end; null: 3/4 of"
        " collective_timeout. The first step, evaluations and saves have four times as long",
    )
    slow_node_factor: float | None = Field(
        1.5,
        gt=1,
        description="times as long as usual a node is busy, at three looks of health_every in a row, to be called slow;"
        " null: none is",
    )
    slow_nodes: Literal["warn", "replace"] = Field(
        "warn",
        description="warn: leave slow nodes out when the job is requeued for another reason; replace: save and requeue"
        " it at once",
    )

    @model_validator(mode="after")
    def _settings_agree(self) -> "TrainingConfig":
        if self.compile and self.zero.stage == 3:
            raise ValueError("compile true needs zero.stage 2 or less: at stage 3 parameters come and go in a branch")
        if self.float8 and self.precision != "bf16":
            raise ValueError(f"float8 true needs precision 'bf16', got '{self.precision}'")
        return self
