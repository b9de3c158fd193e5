"""From a plain model to a partitioned one, in one order: 8 bits → checkpointing → compilation → autocast → DeepSpeed.

The order matters. Checkpointing wraps the blocks' own forward, so that what is recomputed is exactly what DeepSpeed's
hooks gather parameters for; what is recomputed is compiled too; DeepSpeed comes last because it takes the parameters
away.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cait_dist.config.optimizer import OptimizerConfig
from cait_dist.config.training import TrainingConfig
from cait_dist.models import Cait, attention_backend
from cait_dist.models.float8 import Float8Error, use_float8
from cait_dist.planning.counting.batch_plan import BatchPlan

from .activation_checkpointing import apply_activation_checkpointing
from .compilation import compile_branches
from .optimizer import FiniteUpdate, build_optimizer
from .ranks.process_group import World, bound_all_groups
from .starting.plan import CannotStartError


def parallelize(
    model: Cait, training: TrainingConfig, optimizer: OptimizerConfig, batches: BatchPlan, world: World
) -> Any:
    """Wrap the model in a DeepSpeed engine.

    Args:
        model: a ``Cait`` in fp32, the same on every rank
        training: precision, ZeRO stage and checkpointing policy
        optimizer: its settings
        batches: micro-batch and accumulation steps
        world: the process group

    Returns:
        the ``DeepSpeedEngine``; call it like the model

    Raises:
        CannotStartError: if this device multiplies no numbers of 8 bits, and is to
    """
    import deepspeed  # noqa: PLC0415

    stepper = build_optimizer(model, optimizer, world.device)
    if training.zero.stage == 0:
        stepper.step = FiniteUpdate(stepper)  # type: ignore[method-assign, assignment]
    if training.float8:
        _use_float8(model, world.device)
    apply_activation_checkpointing(model, training.activation_checkpointing)
    if training.compile:
        compile_branches(model)
    if uses_autocast(training):
        autocast_forward(model, world.device)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=stepper,
        config=deepspeed_config(training, optimizer, batches),
        dist_init_required=False,
    )
    bound_all_groups(training.collective_timeout)
    return engine


def _use_float8(model: Cait, device: torch.device) -> None:
    try:
        use_float8(model, device)
    except Float8Error as error:
        raise CannotStartError([f"'training.float8': {error}; set it to false"]) from None


def describe_attention(model: Cait, training: TrainingConfig, world: World) -> str:
    """Which backend the self-attention of this model runs with, for the log."""
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    backend = attention_backend(model.arch, world.device, dtype)
    return f"attention: {backend}" + (", in compiled branches" if training.compile else "")


def warn_of_slow_precision(training: TrainingConfig, device: torch.device) -> list[str]:
    """For the log: numbers that a CPU has no instructions for, where torch multiplies one by one."""
    if training.precision != "bf16" or device.type != "cpu":
        return []
    notes = [] if not training.float8 else ["a CPU has no arithmetic of 8 bits: training.float8 is slow here"]
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return notes
    return [*notes, "this CPU has no bf16 arithmetic: training.precision=fp32 is many times quicker here"]


def uses_autocast(training: TrainingConfig) -> bool:
    """Whether bf16 means fp32 parameters under autocast.

    So at stage 0: DeepSpeed's own bf16 without partitioning takes one optimizer step too many at the start.
    """
    return training.precision == "bf16" and training.zero.stage == 0


def parameter_dtype(training: TrainingConfig) -> torch.dtype:
    """Type of the parameters the model computes with; the optimizer's master copy is always fp32."""
    return torch.bfloat16 if training.precision == "bf16" and not uses_autocast(training) else torch.float32


def deepspeed_config(training: TrainingConfig, optimizer: OptimizerConfig, batches: BatchPlan) -> dict[str, Any]:
    """Our settings in DeepSpeed's words. Everything that is not said here keeps DeepSpeed's default."""
    zero = training.zero
    on_gpu = torch.cuda.is_available()
    return {
        "train_batch_size": batches.global_batch,
        "train_micro_batch_size_per_gpu": batches.micro_batch,
        "gradient_accumulation_steps": batches.accumulation,
        "gradient_clipping": optimizer.clip_grad or 0.0,
        "bf16": {"enabled": parameter_dtype(training) is torch.bfloat16},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
        "zero_optimization": {
            "stage": zero.stage,
            "reduce_bucket_size": zero.bucket_size,
            "allgather_bucket_size": zero.bucket_size,
            "overlap_comm": zero.overlap_comm and on_gpu,
            "stage3_param_persistence_threshold": zero.param_persistence_threshold,
            "stage3_prefetch_bucket_size": zero.bucket_size // 4,
        },
    }


def autocast_forward(model: nn.Module, device: torch.device) -> None:
    """Have the model compute in bf16 wherever that loses nothing that matters, with parameters in fp32."""
    # DeepSpeed switches any surrounding autocast off, so it has to be entered inside the engine.
    cast = torch.autocast(device.type, torch.bfloat16)
    model.forward = cast(model.forward)


@contextmanager
def linear_as_at_stage_3() -> Iterator[None]:
    """Add biases as DeepSpeed does at stage 3, where it replaces ``F.linear``: after the product was rounded.

    In bf16 the other way differs enough to count an image differently now and then.
    """
    original = F.linear
    F.linear = _linear_with_bias_apart  # type: ignore[assignment]
    try:
        yield
    finally:
        F.linear = original


def _linear_with_bias_apart(
    inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    if bias is None:
        return inputs.matmul(weight.t())
    if inputs.dim() == 2:
        return torch.addmm(bias, inputs, weight.t())
    return inputs.matmul(weight.t()) + bias
