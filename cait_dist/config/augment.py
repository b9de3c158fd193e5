"""What happens to an image between the shard and the model."""

from typing import Annotated

from pydantic import AfterValidator, Field

from .section import Section

Probability = Annotated[float, Field(ge=0, le=1)]
Rgb = tuple[float, float, float]


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if not 0 < bounds[0] <= bounds[1]:
        raise ValueError("must be two numbers with 0 < low <= high")
    return bounds


def _at_most_the_image(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[1] > 1:
        raise ValueError("must not exceed 1 (the whole image)")
    return bounds


def _positive(std: Rgb) -> Rgb:
    if min(std) <= 0:
        raise ValueError("must be positive")
    return std


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]


class AugmentConfig(Section):
    """Crop and flip on the reader's side; normalisation, mixup and cutmix on the device."""

    crop_scale: Annotated[Range, AfterValidator(_at_most_the_image)] = Field(
        (0.08, 1.0), description="area of a random crop over that of the image"
    )
    crop_ratio: Range = Field((3 / 4, 4 / 3), description="width over height of a random crop")
    hflip: Probability = Field(0.5, description="probability of a horizontal flip")
    mean: Rgb = Field((0.485, 0.456, 0.406), description="subtracted per channel, of pixels in [0, 1]")
    std: Annotated[Rgb, AfterValidator(_positive)] = Field((0.229, 0.224, 0.225), description="divided by per channel")
    mixup: float = Field(0.8, ge=0, description="alpha of mixup's Beta(alpha, alpha); 0 switches it off")
    cutmix: float = Field(1.0, ge=0, description="alpha of cutmix's Beta(alpha, alpha); 0 switches it off")
    mix_probability: Probability = Field(1.0, description="share of the groups that are mixed at all")
    cutmix_share: Probability = Field(0.5, description="share of cutmix among mixed groups when both are on")
    mix_group: int = Field(64, ge=2, multiple_of=2, description="neighbouring samples that share one mixing ratio")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="mass spread evenly over all classes")

    @property
    def mixes(self) -> bool:
        """Whether any sample is ever blended with another."""
        return self.mix_probability > 0 and (self.mixup > 0 or self.cutmix > 0)
