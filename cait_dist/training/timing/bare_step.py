"""How long a step takes in which there is next to nothing to compute: one token an image.

What is left is all that does not grow with the images: launches, LayerScale's way into the weights, their narrow copies
under autocast, DeepSpeed's hooks and buckets, clipping, the optimizer, the moving average. The planner adds it to the
work of the tokens (:mod:`cait_dist.planning.rates.step_time`). Two networks are measured at every ZeRO stage, of the
width that is asked for and as narrow as can be, because some of this goes by parameter and some by layer.
"""

import statistics
import time
from collections.abc import Callable, Iterator

from cait_dist.config import RunConfig
from cait_dist.config.augment import AugmentConfig
from cait_dist.config.model import ModelConfig
from cait_dist.models import Architecture, architecture
from cait_dist.planning.counting.batch_plan import BatchPlan
from cait_dist.planning.counting.flops import count_params
from cait_dist.planning.options import STAGES
from cait_dist.planning.rates.calibration import BareStep, Phases

from ..ranks.process_group import World
from .timed_step import TimedSteps, take_steps

_IMAGES = 2
_MOST_PARAMETERS = 32_000_000
"""in blocks: of a larger network as many blocks as hold these, so that its optimizer's state fits beside anything"""
_NARROW_DEPTH = 8


def bare_steps(
    config: RunConfig, arch: Architecture, world: World, steps: int, clock: str, say: Callable[[str], None]
) -> Iterator[BareStep]:
    """Measure at every stage.

    Args:
        config: of the run.
        arch: its network.
        world: of one process.
        steps: to take of each kind; the median counts.
        clock: ``wall`` or ``processor``.
        say: is told what is measured now.
    """
    count = count_params(arch).total
    depth = max(1, min(arch.depth, _MOST_PARAMETERS * arch.depth // count))
    ticks = time.process_time if clock == "processor" else time.perf_counter
    networks = ((arch.num_heads, min(arch.depth, _NARROW_DEPTH)), (arch.embed_dim, depth))
    for stage in STAGES:
        say(f"steps without tokens at ZeRO stage {stage}")
        for dim, blocks in networks:
            bare = _without_tokens(config, arch, dim, blocks, stage)
            small = architecture(bare.model.name, num_classes=arch.num_classes, **bare.model.overrides)
            batches = BatchPlan(_IMAGES, 1, _IMAGES, 1)
            taken = take_steps(bare, world, batches, arch.num_classes, steps, ticks, apart=True)
            params = count_params(small).total
            yield BareStep(stage, dim, blocks + small.class_blocks, params, _IMAGES, _median(taken))


def _without_tokens(config: RunConfig, arch: Architecture, dim: int, depth: int, stage: int) -> RunConfig:
    """The configuration with an image of one patch, and nothing done to it."""
    model = ModelConfig(
        name=config.model.name,
        image_size=arch.patch_size,
        patch_size=arch.patch_size,
        embed_dim=dim,
        depth=depth,
        num_heads=arch.num_heads,
        mlp_ratio=config.model.mlp_ratio,
        residual=config.model.residual,
        talking_heads=arch.talking_heads,
    )
    zero = config.training.zero.model_copy(update={"stage": stage})
    training = config.training.model_copy(update={"zero": zero, "activation_checkpointing": "none"})
    augment = AugmentConfig(mixup=0.0, cutmix=0.0)
    return config.model_copy(update={"model": model, "training": training, "augment": augment})


def _median(taken: TimedSteps) -> Phases:
    middle = (statistics.median(getattr(phases, name) for phases in taken.phases) for name in vars(taken.phases[0]))
    return Phases(*middle)
