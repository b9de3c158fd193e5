"""One way to run a configuration on so many GPUs: recomputation policy, ZeRO stage, micro-batch; what it takes.

Memory, arithmetic and traffic are counted. Times come from a calibration, or else are the least that a datasheet
allows, which is a bound and says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from cait_dist.config import RunConfig
from cait_dist.models import Architecture
from cait_dist.ops import choose_backend

from .counting.activation_memory import BACKENDS, Activations, count_activations
from .counting.batch_plan import BatchPlan, plan_batches
from .counting.communication import Network, Traffic, count_traffic
from .counting.flops import count_params
from .counting.numerics import Numerics, numerics
from .counting.state_memory import RankState, ZeroSetting, coming_up, count_state
from .counting.step_flops import step_flops
from .errors import PlanError
from .gpus import Gpu
from .rates.calibration import Calibration
from .rates.step_time import StepTime, Work, predict_step

STAGES = (0, 1, 2, 3)
MOST_IMAGES = 4096
"""of a micro-batch that is looked for"""


@dataclass(frozen=True)
class Option:
    """A way to run.

    Attributes:
        policy: of recomputation.
        stage: of ZeRO.
        gpus: ranks.
        most_images: largest micro-batch that fits, up to 4,096; 0 where none does.
        images: micro-batch that divides a rank's part of the global batch; 0 where none fits.
        accumulation: micro-batches per step.
        state: of a rank.
        activations: of a micro-batch.
        peak_bytes: of a rank.
        flops: of all ranks in a step.
        traffic: of a rank in a step.
        network_seconds: that this takes at least.
        step_seconds: predicted, or the least.
        time: where the predicted seconds go; None without calibration.
    """

    policy: str
    stage: int
    gpus: int
    most_images: int
    images: int
    accumulation: int
    state: RankState
    activations: Activations
    peak_bytes: float
    flops: float
    traffic: Traffic
    network_seconds: float
    step_seconds: float
    time: StepTime | None

    @property
    def fits(self) -> bool:
        """Whether it can be run at all."""
        return self.images > 0


@dataclass(frozen=True)
class Situation:
    """What the ways of running share.

    Attributes:
        config: of the run.
        arch: its network.
        gpu: kind.
        network: between GPUs.
        budget: bytes of a GPU that may be planned with.
        attention: backend, or None for what the run would choose.
        calibration: of the GPU, or None.
    """

    config: RunConfig
    arch: Architecture
    gpu: Gpu
    network: Network
    budget: float
    attention: str | None = None
    calibration: Calibration | None = None
    device: str = "cuda"

    @property
    def backend(self) -> str:
        """Of the attention: as asked, else what the run would choose; ``plain`` without talking heads."""
        if not self.arch.talking_heads:
            return "plain"
        return self.attention or self._chosen_backend()

    def _chosen_backend(self) -> str:
        chosen = likely_backend(self.arch, self.device)
        if self.device == "cpu" or chosen == "eager":
            return chosen
        # This machine need not have such a GPU. Where it has been measured, what ran there counts.
        measured = self.calibration.backends(self.config.training.precision) if self.calibration else {"fused"}
        return "fused" if "fused" in measured else "chunked"

    def option(self, policy: str, stage: int, gpus: int) -> Option:
        """Work one way out.

        Raises:
            PlanError: if the global batch cannot be divided among so many GPUs, naming what would work.
        """
        training, unit = self.config.training, 2 if self.config.augment.mixes else 1
        width = numerics(training.precision, stage)
        most = self._most_images(policy, stage, gpus, width)
        limit = min(most // unit * unit, training.micro_batch_limit or most)
        batches = _split(self.config, gpus, max(unit, limit))
        images = batches.micro_batch if limit >= unit else 0
        accumulation = batches.accumulation if images else 1
        state, activations = self._memory(policy, stage, gpus, width, accumulation)
        params = count_params(self.arch).total
        traffic = count_traffic(params, width, stage, gpus, accumulation)
        seconds = traffic.seconds(self.network, gpus)
        flops = training.global_batch * step_flops(self.arch, policy)
        time = self._predict(policy, stage, gpus, width, images, accumulation, seconds) if images else None
        least = max(flops / gpus / self.gpu.peak(training.precision), seconds)
        return Option(
            policy=policy,
            stage=stage,
            gpus=gpus,
            most_images=most,
            images=images,
            accumulation=accumulation,
            state=state,
            activations=activations,
            peak_bytes=state.peak(activations.peak(images)),
            flops=flops,
            traffic=traffic,
            network_seconds=seconds,
            step_seconds=time.total if time else least,
            time=time,
        )

    def _memory(
        self, policy: str, stage: int, gpus: int, width: Numerics, accumulation: int
    ) -> tuple[RankState, Activations]:
        training = self.config.training
        zero = ZeroSetting(
            stage=stage,
            ranks=gpus,
            bucket=training.zero.bucket_size,
            overlap=training.zero.overlap_comm,
            moments=2 if self.config.optimizer.kind == "adamw" else 1,
            average=training.ema_decay is not None,
            accumulation=accumulation,
            device=self.device,
        )
        gradient = coming_up(width, zero)
        activations = count_activations(self.arch, width, policy, self.backend, self.device, gradient)
        return count_state(count_params(self.arch).total, width, zero), activations

    def _most_images(self, policy: str, stage: int, gpus: int, width: Numerics) -> int:
        """Largest micro-batch that fits, by halving; with accumulation, if the step would need it."""
        per_rank = self.config.training.global_batch // gpus
        whole = self._memory(policy, stage, gpus, width, 1)
        split = self._memory(policy, stage, gpus, width, 2)

        def fits(images: int) -> bool:
            state, activations = whole if images >= per_rank else split
            return state.peak(activations.peak(images)) <= self.budget

        low, high = 0, MOST_IMAGES
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        return low

    def _predict(
        self, policy: str, stage: int, gpus: int, width: Numerics, images: int, accumulation: int, exchange: float
    ) -> StepTime | None:
        if self.calibration is None:
            return None
        work = Work(
            images=images,
            accumulation=accumulation,
            policy=policy,
            backend=self.backend,
            stage=stage,
            share=1.0 if stage == 0 else 1.0 / gpus,
            exchange=exchange,
            overlap=self.config.training.zero.overlap_comm and stage > 0 and self.device == "cuda",
        )
        return predict_step(self.arch, width, self.calibration, work)


def likely_backend(arch: Architecture, device: str = "cuda") -> str:
    """The backend that a run on such a device chooses by itself."""
    import torch  # noqa: PLC0415 - the name of a type alone

    chosen = choose_backend(
        "cpu" if device == "cpu" else device,
        torch.bfloat16,
        heads=arch.num_heads,
        tokens=arch.num_patches,
    )
    return chosen if chosen in BACKENDS else "chunked"


def _split(config: RunConfig, gpus: int, limit: int) -> BatchPlan:
    try:
        return plan_batches(config.training.global_batch, gpus, limit, pairs=config.augment.mixes)
    except ValueError as error:
        raise PlanError(str(error)) from None
