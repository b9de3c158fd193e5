"""Which CaiT to train. Everything left at ``null`` takes the value of the named variant."""

from typing import Literal

from pydantic import Field

from .section import Section, UserPath

VariantName = Literal[
    "cait_xxs24_224", "cait_xxs24_384", "cait_xxs24_448",
    "cait_xxs36_224", "cait_xxs36_384", "cait_xxs36_448",
    "cait_xs24_224", "cait_xs24_384", "cait_xs24_448",
    "cait_xs36_224", "cait_xs36_384", "cait_xs36_448",
    "cait_s24_224", "cait_s24_384", "cait_s24_448",
    "cait_s36_224", "cait_s36_384", "cait_s36_448",
    "cait_s48_224", "cait_s48_384", "cait_s48_448",
    "cait_m24_224", "cait_m24_384", "cait_m24_448",
    "cait_m36_224", "cait_m36_384", "cait_m36_448",
    "cait_m48_224", "cait_m48_384", "cait_m48_448",
]  # fmt: skip


class ModelConfig(Section):
    """A variant of the paper by name, and what is to differ from it."""

    name: VariantName = Field("cait_xxs24_224", description="variant and resolution, as timm spells them")
    image_size: int | None = Field(None, ge=1, description="input height and width in pixels")
    patch_size: int | None = Field(None, ge=1, description="side of a patch in pixels; divides image_size")
    embed_dim: int | None = Field(None, ge=1, description="token width d")
    depth: int | None = Field(None, ge=1, description="number of self-attention blocks")
    depth_token_only: int | None = Field(None, ge=1, description="number of class-attention blocks")
    num_heads: int | None = Field(None, ge=1, description="attention heads; divides embed_dim")
    mlp_ratio: float | None = Field(None, gt=0, description="hidden width of the feed-forward network over embed_dim")
    layer_scale_init: float | None = Field(None, gt=0, description="initial LayerScale value (epsilon of the paper)")
    num_classes: int | None = Field(None, ge=1, description="width of the head; null takes it from the data set")
    drop_path_rate: float = Field(0.0, ge=0, lt=1, description="stochastic depth, the same rate in every block")
    drop_rate: float = Field(0.0, ge=0, lt=1, description="dropout after embeddings, projections and MLP layers")
    attn_drop_rate: float = Field(0.0, ge=0, lt=1, description="dropout on the mixed attention map")
    init_from: UserPath | None = Field(
        None, description="weights to start from (.safetensors, or .pth of deit or timm)"
    )
