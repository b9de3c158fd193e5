"""What happens to an image between the shard and the model."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

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
    """Crop and flip on the reader's side; on the device colours, erasing and mixing."""

    crop_scale: Annotated[Range, AfterValidator(_at_most_the_image)] = Field(
        (0.08, 1.0), description="area of a random crop over that of the image"
    )
    crop_ratio: Range = Field((3 / 4, 4 / 3), description="width over height of a random crop")
    hflip: Probability = Field(0.5, description="probability of a horizontal flip")
    color_jitter: float = Field(
        0.0,
        ge=0,
        description="brightness, contrast and saturation change by factors from 1 - this to 1 + this; 0 is off",
    )
    rand_layers: int = Field(
        0, ge=0, le=15, description="RandAugment: operations drawn for each image; 0 is off (the paper: 2)"
    )
    rand_magnitude: float = Field(9.0, ge=0, le=10, description="RandAugment: mean strength of an operation")
    rand_std: float = Field(0.5, ge=0, description="RandAugment: standard deviation of the strength")
    rand_probability: Probability = Field(0.5, description="RandAugment: probability that a drawn operation is applied")
    erase_probability: Probability = Field(
        0.0, description="share of images of which a rectangle becomes noise; 0 is off (the paper: 0.25)"
    )
    erase_area: Annotated[Range, AfterValidator(_at_most_the_image)] = Field(
        (0.02, 1 / 3), description="area of the erased rectangle over that of the image"
    )
    erase_ratio: Range = Field((0.3, 1 / 0.3), description="height over width of the erased rectangle")
    mean: Rgb = Field((0.485, 0.456, 0.406), description="subtracted per channel, of pixels in [0, 1]")
    std: Annotated[Rgb, AfterValidator(_positive)] = Field((0.229, 0.224, 0.225), description="divided by per channel")
    mixup: float = Field(0.8, ge=0, description="alpha of mixup's Beta(alpha, alpha); 0 switches it off")
    cutmix: float = Field(1.0, ge=0, description="alpha of cutmix's Beta(alpha, alpha); 0 switches it off")
    mix_probability: Probability = Field(1.0, description="share of the groups that are mixed at all")
    cutmix_share: Probability = Field(0.5, description="share of cutmix among mixed groups when both are on")
    mix_group: int = Field(64, ge=2, multiple_of=2, description="neighbouring samples that share one mixing ratio")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="mass spread evenly over all classes")

    @model_validator(mode="after")
    def _colours_change_once(self) -> "AugmentConfig":
        if self.color_jitter > 0 and self.rand_layers > 0:
            raise ValueError(
                "color_jitter and rand_layers exclude each other, as RandAugment contains what colour jitter does: "
                "set one of them to 0"
            )
        return self

    @property
    def mixes(self) -> bool:
        """Whether any sample is ever blended with another."""
        return self.mix_probability > 0 and (self.mixup > 0 or self.cutmix > 0)
