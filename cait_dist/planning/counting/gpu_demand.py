"""How many images per second a GPU takes in while it trains, from arithmetic alone.

A training step costs three forward passes, a multiply-add two FLOP; so an image costs 6 MACs, and a GPU that reaches
the share MFU ("model FLOP utilisation") of its peak takes

    MFU · peak / (6 · MACs)      images per second.

Peaks are those of the datasheets, dense, in bf16. MFU is an assumption that the caller must make and should print: well
tuned transformers reach 0.3 to 0.5, and too high a guess only makes the input look slower than it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cait_dist.models import Architecture, architecture
from cait_dist.models.zoo import VARIANTS

from .flops import count_macs

if TYPE_CHECKING:  # it needs pydantic, which a machine that only looks up a peak may lack
    from cait_dist.config.model import ModelConfig

PEAK_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}
"""Dense bf16; H100 is the SXM form."""
FLOPS_PER_MAC = 2
PASSES_PER_STEP = 3


@dataclass(frozen=True)
class Demand:
    """What feeding one model takes.

    Attributes:
        model: its name.
        images_per_second: per GPU of each kind.
    """

    model: str
    images_per_second: dict[str, float]


def demand(model: str, arch: Architecture, mfu: float) -> Demand:
    """Work out what one GPU of each kind takes in."""
    flops = PASSES_PER_STEP * FLOPS_PER_MAC * count_macs(arch).total
    return Demand(model, {name: mfu * peak / flops for name, peak in PEAK_FLOPS.items()})


def demands(config: ModelConfig, num_classes: int, mfu: float) -> list[Demand]:
    """The configuration's own model first, then the ten variants at its resolution, where they can have it."""
    overrides = config.overrides
    own = architecture(config.name, num_classes=num_classes, **overrides)
    found = [demand("this configuration", own, mfu)]
    for variant in VARIANTS:
        try:
            arch = architecture(f"cait_{variant}_224", image_size=own.image_size, num_classes=num_classes)
        except ValueError:  # patches of 16 pixels do not fit
            return found
        found.append(demand(f"cait_{variant} at {own.image_size}", arch, mfu))
    return found
