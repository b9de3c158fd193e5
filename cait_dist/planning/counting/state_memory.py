"""What a rank holds besides activations, per ZeRO stage: weights, gradients, optimizer state, moving average, buffers.

With P parameters of p bytes (2 in bf16 from stage 1 on, else 4) and W ranks, a rank holds in bytes:

                      stage 0     stage 1        stage 2        stage 3
    parameters        4 P         p P            p P            p P / W
    master weights    –           4 P / W        4 P / W        4 P / W
    moments (AdamW)   8 P         8 P / W        8 P / W        8 P / W
    moving average    4 P         4 P / W        4 P / W        4 P / W
    gradients         4 P         p P / W        p P / W        p P / W      for the update
      of its parts                in the bucket
    wide gradients    –           4 P / W        4 P / W        4 P / W      for the update, where p is 2
    flat copy         4 P         p P / W        p P / W        p P / W      for the update
    buckets           –           p · elements   p · elements   p · elements twice with overlap_comm at stages 1, 2
    gathered          –           –              –              p P          while it computes
    being fetched     –           –              –              p P          until it is copied into parameters

The last rows are how DeepSpeed comes configured: what stage 3 has gathered it keeps while less than 10^9 elements of
parameters are alive and will be used again, which is all of any CaiT, and it fetches a quarter of a bucket's elements
at once; in the first two steps also in the middle of things, when activations are there. So stage 3 saves what is
*between* steps.
Activations have gone when the update comes: the peak is the larger of the two, not the sum. On a CPU buckets
fill as gradients come, and where ranks exchange them at stages 1 and 2 a full one is there twice, which can be more
than the update needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from .numerics import WIDE, Numerics

GATHER_LIMIT = 10**9
"""elements; DeepSpeed's stage3_max_live_parameters and stage3_max_reuse_distance, which we leave as they are"""
ALL_REDUCE_ELEMENTS = 5 * 10**8
"""DeepSpeed's buffer for the gradients of stage 0"""


@dataclass(frozen=True)
class ZeroSetting:
    """What decides the state of a rank, besides the number of parameters.

    Attributes:
        stage: of ZeRO.
        ranks: W.
        bucket: elements, ``training.zero.bucket_size``.
        overlap: ``training.zero.overlap_comm``, which only GPUs follow.
        moments: numbers that the optimizer keeps per parameter.
        average: whether there is a moving average.
        accumulation: micro-batches per step.
        device: ``cuda`` or ``cpu``.
    """

    stage: int
    ranks: int
    bucket: int
    overlap: bool = True
    moments: int = 2
    average: bool = True
    accumulation: int = 1
    device: str = "cuda"


@dataclass(frozen=True)
class RankState:
    """Bytes of one rank by kind; the module's table says what lives when.

    Attributes:
        stage: of ZeRO.
        parameters: as the model computes with them.
        master: float32 weights that the optimizer updates, where they are others.
        moments: of the optimizer.
        average: moving average of the weights.
        gradients: of what this rank updates.
        wide_gradients: the same in float32, where they are narrow.
        flat: the gradients once more, in one piece: for the all-reduce of stage 0, for the update elsewhere.
        buckets: buffers in which gradients are reduced, as far as they are there with all activations.
        buckets_held: what the update finds of them.
        gathered: whole parameters of stage 3 while it computes.
        fetching: those that have come and are not yet in their places.
        accumulated: gradients of earlier micro-batches of the step.
        reducing: a full bucket and the flat copy of it that ranks exchange, where it was not there before.
    """

    stage: int
    parameters: int
    master: int
    moments: int
    average: int
    gradients: int
    wide_gradients: int
    flat: int
    buckets: int
    buckets_held: int
    gathered: int
    fetching: int
    accumulated: int
    reducing: int

    @property
    def steady(self) -> int:
        """Between two steps."""
        always = self.parameters + self.master + self.moments + self.average
        return always + (self.gradients + self.buckets if self.stage == 3 else 0)

    @property
    def beside_activations(self) -> int:
        """On top of ``steady`` while activations are there."""
        return self.accumulated + self.gathered + self.fetching + (self.buckets if self.stage in (1, 2) else 0)

    @property
    def for_update(self) -> int:
        """On top of ``steady`` when the activations have gone."""
        if self.stage == 0:
            return self.gradients + self.flat
        held = self.buckets_held + (0 if self.stage == 3 else self.gradients)
        return max(self.reducing, held + self.flat + self.wide_gradients)

    def peak(self, activations: float) -> float:
        """Most that a rank needs at once, with this much for activations."""
        return self.steady + max(self.beside_activations + activations, self.for_update)


def count_state(params: int, width: Numerics, zero: ZeroSetting) -> RankState:
    """Count the state of one rank.

    Args:
        params: of the model.
        width: of its numbers at this stage.
        zero: how they are partitioned.
    """
    p, part = width.parameter, -(-params // zero.ranks)
    if zero.stage == 0:
        return RankState(
            stage=0,
            parameters=WIDE * params,
            master=0,
            moments=zero.moments * WIDE * params,
            average=WIDE * params if zero.average else 0,
            gradients=WIDE * params,
            wide_gradients=0,
            flat=WIDE * min(params, ALL_REDUCE_ELEMENTS),
            buckets=0,
            buckets_held=0,
            gathered=0,
            fetching=0,
            accumulated=WIDE * params if zero.accumulation > 1 else 0,
            reducing=0,
        )
    fills = zero.device == "cpu" and zero.stage != 3  # elsewhere buckets are there from the start
    again = {1: p * params, 2: p * part, 3: 0}[zero.stage] if zero.accumulation > 1 else 0
    return RankState(
        stage=zero.stage,
        parameters=p * (part if zero.stage == 3 else params),
        master=WIDE * part,
        moments=zero.moments * WIDE * part,
        average=WIDE * part if zero.average else 0,
        gradients=p * part,
        wide_gradients=WIDE * part if p < WIDE else 0,
        flat=p * part,
        buckets=0 if fills else _bucket_bytes(params, p, zero),
        # Where other ranks update a weight its gradient stays a part of the bucket, and keeps all of it.
        buckets_held=_bucket_bytes(params, p, zero) if zero.stage == 1 and zero.ranks > 1 else 0,
        gathered=p * min(params, GATHER_LIMIT) if zero.stage == 3 else 0,
        fetching=p * min(params, zero.bucket // 4) if zero.stage == 3 and zero.ranks > 1 else 0,
        accumulated=again,
        reducing=2 * _bucket_bytes(params, p, zero) if fills and zero.ranks > 1 else 0,
    )


def coming_up(width: Numerics, zero: ZeroSetting) -> int:
    """Bytes of a weight's gradient that takes new memory in the backward pass, while activations go.

    Buckets of a GPU are there before; those of a CPU fill.
    """
    fills = zero.stage in (1, 2) and zero.device == "cpu"
    return width.parameter if fills or (zero.stage == 0 and zero.accumulation == 1) else 0


def _bucket_bytes(params: int, p: int, zero: ZeroSetting) -> int:
    """A GPU reserves them whole; on a CPU only what is written to takes memory."""
    if zero.device == "cpu":
        return p * min(zero.bucket, params)
    return p * zero.bucket * (2 if zero.overlap and zero.stage != 3 else 1)
