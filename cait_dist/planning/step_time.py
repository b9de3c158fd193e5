"""How long a training step takes: counted work times the rates that were measured on the device.

A self-attention block is four linear layers, an attention, a GELU and two branches' surroundings; what is recomputed
costs its forward pass again; stochastic depth leaves its share of samples out. On a GPU the host runs ahead, so a block
costs its work or its launches, whichever is longer; on a CPU it costs both. The update follows once per step, on the
part of the weights that a rank holds. Exchanges that a network needs hide behind the backward pass as far as they fit
where they are allowed to overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

from cait_dist.models import Architecture

from .activation_memory import is_recomputed
from .calibration import Both, Calibration, Rates
from .flops import tokens_by_block
from .numerics import Numerics

_CLASS_BLOCK_LAUNCHES = 1.0
"""of a self-attention block's"""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step on one rank, by what they go to.

    Attributes:
        linears: linear layers and patch embedding.
        attention: the attentions.
        elementwise: norms, GELU, scales, residuals, casts.
        launches: of the host, as far as they show.
        recomputed: forward passes that are run again.
        augmentation: of the images on the device.
        update: optimizer, clipping and moving average.
        exposed: exchanges that nothing hides.
    """

    linears: float
    attention: float
    elementwise: float
    launches: float
    recomputed: float
    augmentation: float
    update: float
    exposed: float

    @property
    def total(self) -> float:
        """The step."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class Work:
    """What a rank computes in a step.

    Attributes:
        images: micro-batch.
        accumulation: micro-batches.
        policy: of recomputation.
        backend: of the attention; ``plain`` without talking heads.
        updated: parameters that the rank updates.
        moved: bytes of gradients and weights that are copied for the update.
        exchange: seconds that the network needs.
        overlap: whether it may do so during the backward pass.
    """

    images: int
    accumulation: int
    policy: str
    backend: str
    updated: int
    moved: int = 0
    exchange: float = 0.0
    overlap: bool = False


def predict_step(arch: Architecture, width: Numerics, calibration: Calibration, work: Work) -> StepTime:
    """Add a step up.

    Raises:
        PlanError: if the calibration has no times of that attention.
    """
    parts = _Parts(arch, width, calibration, work)
    micro = work.accumulation
    linears, attention, elementwise = parts.linears * micro, parts.attention * micro, parts.elementwise * micro
    recomputed = parts.recomputed * micro
    busy = sum(part.forward + part.backward for part in (linears, attention, elementwise)) + recomputed
    launches = micro * parts.launches
    backward = sum(part.backward for part in (linears, attention, elementwise)) / micro
    return StepTime(
        linears=linears.forward + linears.backward,
        attention=attention.forward + attention.backward,
        elementwise=elementwise.forward + elementwise.backward,
        launches=launches if calibration.device == "cpu" else max(0.0, launches - busy),
        recomputed=recomputed,
        augmentation=micro * work.images * calibration.augment * arch.image_size**2,
        update=work.updated * calibration.update + work.moved / calibration.bandwidth,
        exposed=max(0.0, work.exchange - backward) if work.overlap else work.exchange,
    )


class _Parts:
    """Of one micro-batch."""

    def __init__(self, arch: Architecture, width: Numerics, calibration: Calibration, work: Work) -> None:
        self._arch, self._work = arch, work
        self._rates: Rates = calibration.rates["bf16" if width.product == 2 else "fp32"]
        self._kept = work.images * (1 - arch.drop_path_rate)
        none = Both(0.0, 0.0)
        self.linears, self.attention, self.elementwise, self.recomputed = none, none, none, 0.0
        for block, tokens in enumerate(tokens_by_block(arch)):
            self._add_block(tokens, whole=is_recomputed(work.policy, block))
        self._add_ends()
        if width.autocast:
            self._add_casts(calibration)
        blocks = arch.depth + _CLASS_BLOCK_LAUNCHES * arch.class_blocks
        overhead = calibration.block_overhead
        again = sum(is_recomputed(work.policy, block) for block in range(arch.depth)) / arch.depth
        self.launches = blocks * (overhead.forward * (1 + again) + overhead.backward)

    def _add_block(self, tokens: int, *, whole: bool) -> None:
        arch, rates, rows = self._arch, self._rates, self._kept * tokens
        d, m = arch.embed_dim, arch.mlp_hidden
        around = rates.product(rows, d, 3 * d) + rates.product(rows, d, d)
        mlp = rates.product(rows, d, m) + rates.product(rows, m, d)
        attention = rates.attend(self._work.backend, arch.num_heads, tokens, arch.head_dim, self._kept)
        elementwise = rates.stream * (2 * rows * d) + rates.gelu * (rows * m)
        self.linears += around + mlp
        self.attention += attention
        self.elementwise += elementwise
        if whole:
            self.recomputed += (around + mlp + attention + elementwise).forward
        elif self._work.policy == "attention":
            self.recomputed += (around + attention).forward

    def _add_ends(self) -> None:
        """Patch embedding, class attention and head; what is done for the class token alone is left to launches."""
        arch, rates, images = self._arch, self._rates, self._work.images
        d, rows = arch.embed_dim, images * (arch.num_patches + 1)
        self.linears += rates.product(images * arch.num_patches, arch.in_chans * arch.patch_size**2, d)
        self.linears += rates.product(rows, d, d) * (2 * arch.class_blocks)
        self.elementwise += rates.stream * (rows * d * arch.class_blocks)

    def _add_casts(self, calibration: Calibration) -> None:
        """Autocast reads each weight and writes a narrow copy; its gradient goes the other way."""
        arch = self._arch
        weights = arch.depth * (4 * arch.embed_dim**2 + 2 * arch.embed_dim * arch.mlp_hidden)
        seconds = 6 * weights / calibration.bandwidth
        self.elementwise += Both(seconds, seconds)
