"""How long a training step takes: counted work times the rates that were measured on the device.

A self-attention block is four linear layers, an attention, a GELU and two branches' surroundings; what is recomputed
costs its forward pass again; stochastic depth leaves its share of samples out. To that comes a step without tokens,
which was measured as one. Its passes are mostly work of the host, which runs ahead of a GPU: there a pass costs the
tokens' work or that, whichever is longer, and on a CPU both. The update follows once per step, on the part of the
weights that a rank holds. Exchanges that a network needs hide behind the backward pass as far as they fit where they
are allowed to overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

from cait_dist.models import Architecture

from ..counting.activation_memory import is_recomputed
from ..counting.flops import count_params, tokens_by_block
from ..counting.numerics import Numerics
from .calibration import Both, Calibration, Rates


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step on one rank, by what they go to.

    Attributes:
        linears: linear layers and patch embedding.
        attention: the attentions.
        elementwise: norms, GELU, residuals.
        bare: passes without tokens: launches, engine and weights, as far as they show.
        recomputed: forward passes that are run again.
        augmentation: of the images on the device.
        update: optimizer, clipping and moving average.
        exposed: exchanges that nothing hides.
    """

    linears: float
    attention: float
    elementwise: float
    bare: float
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
        stage: of ZeRO.
        share: of the parameters, what the rank updates.
        exchange: seconds that the network needs.
        overlap: whether it may do so during the backward pass.
    """

    images: int
    accumulation: int
    policy: str
    backend: str
    stage: int
    share: float = 1.0
    exchange: float = 0.0
    overlap: bool = False


def predict_step(arch: Architecture, width: Numerics, calibration: Calibration, work: Work) -> StepTime:
    """Add a step up.

    Raises:
        PlanError: if the calibration has no times of that attention, or none in that precision.
    """
    parts = _Parts(arch, width, calibration, work)
    micro = work.accumulation
    linears, attention, elementwise = parts.linears * micro, parts.attention * micro, parts.elementwise * micro
    recomputed = parts.recomputed * micro
    busy = sum(part.forward + part.backward for part in (linears, attention, elementwise)) + recomputed
    bare = micro * (parts.bare.forward * (1 + parts.again) + parts.bare.backward)
    backward = sum(part.backward for part in (linears, attention, elementwise)) / micro
    return StepTime(
        linears=linears.forward + linears.backward,
        attention=attention.forward + attention.backward,
        elementwise=elementwise.forward + elementwise.backward,
        bare=bare if calibration.device == "cpu" else max(0.0, bare - busy),
        recomputed=recomputed,
        augmentation=micro * work.images * calibration.augment * arch.image_size**2,
        update=work.share * parts.bare.update,
        exposed=max(0.0, work.exchange - backward) if work.overlap else work.exchange,
    )


class _Parts:
    """Of one micro-batch."""

    def __init__(self, arch: Architecture, width: Numerics, calibration: Calibration, work: Work) -> None:
        self._arch, self._work = arch, work
        self._rates: Rates = calibration.at("bf16" if width.product == 2 else "fp32")
        self._kept = work.images * (1 - arch.drop_path_rate)
        none = Both(0.0, 0.0)
        self.linears, self.attention, self.elementwise, self.recomputed = none, none, none, 0.0
        for block, tokens in enumerate(tokens_by_block(arch)):
            self._add_block(tokens, whole=is_recomputed(work.policy, block))
        self._add_ends()
        blocks, params = arch.depth + arch.class_blocks, count_params(arch).total
        self.bare = self._rates.bare_step(work.stage, arch.embed_dim, blocks, params)
        self.again = sum(is_recomputed(work.policy, block) for block in range(arch.depth)) / arch.depth

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
        """Patch embedding, class attention and head; what is done for the class token alone is in the bare step."""
        arch, rates, images = self._arch, self._rates, self._work.images
        d, rows = arch.embed_dim, images * (arch.num_patches + 1)
        self.linears += rates.product(images * arch.num_patches, arch.in_chans * arch.patch_size**2, d)
        self.linears += rates.product(rows, d, d) * (2 * arch.class_blocks)
        self.elementwise += rates.stream * (rows * d * arch.class_blocks)
