"""Which CaiT to train. Everything left at ``null`` takes the value of the named variant."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, model_validator

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


ResidualName = Literal[
    "layer_scale", "pre_norm", "rezero", "skip_init", "fixup", "t_fixup",
    "rezero_adapted", "fixup_adapted", "t_fixup_adapted", "scalar",
]  # fmt: skip
ClassTokenName = Literal["class_attention", "from_start", "inserted", "average_pooling"]


class ModelConfig(Section):
    """A variant of the paper by name, and what is to differ from it."""

    name: VariantName = Field("cait_xxs24_224", description="variant and resolution, as timm spells them")
    image_size: int | None = Field(None, ge=1, description="input height and width in pixels")
    patch_size: int | None = Field(None, ge=1, description="side of a patch in pixels; divides image_size")
    embed_dim: int | None = Field(None, ge=1, description="token width d")
    depth: int | None = Field(None, ge=1, description="number of self-attention blocks")
    depth_token_only: int | None = Field(
        None, ge=1, description="number of class-attention blocks, 2 unless given; only with class_attention"
    )
    num_heads: int | None = Field(None, ge=1, description="attention heads; divides embed_dim")
    mlp_ratio: float | None = Field(None, gt=0, description="hidden width of the feed-forward network over embed_dim")
    residual: ResidualName = Field("layer_scale", description="how branches are added (figure 1 of the paper)")
    layer_scale_init: float | None = Field(
        None,
        gt=0,
        description="initial value of LayerScale, or of residual 'scalar' (epsilon of the paper); null takes the"
        " variant's, at another depth 0.1 up to 18 blocks, 1e-5 up to 24, 1e-6 beyond",
    )
    class_token: ClassTokenName = Field(
        "class_attention", description="where the class token meets the patches (figure 2 of the paper)"
    )
    insert_class_token_at: int | None = Field(
        None, ge=1, description="blocks before the class token joins; only with class_token 'inserted'"
    )
    class_attention_mlp: bool = Field(True, description="feed-forward networks in the class-attention blocks")
    talking_heads: bool = Field(True, description="mix the heads of self-attention before and after its softmax")
    num_classes: int | None = Field(None, ge=1, description="width of the head; null takes it from the data set")
    drop_path_rate: float = Field(0.0, ge=0, lt=1, description="stochastic depth, the same rate in every block")
    drop_rate: float = Field(0.0, ge=0, lt=1, description="dropout after embeddings, projections and MLP layers")
    attn_drop_rate: float = Field(0.0, ge=0, lt=1, description="dropout on the mixed attention map")
    init_from: UserPath | None = Field(
        None,
        description="weights to start from: a run, one of its checkpoints, or a file (.safetensors, or .pth of deit or"
        " timm); positions are resized, a head of another width is not taken",
    )
    init_weights: Literal["raw", "ema"] = Field(
        "raw", description="which weights of a run to start from: raw, or ema, its moving average"
    )

    @model_validator(mode="after")
    def _settings_agree(self) -> "ModelConfig":
        if problems := list(self._disagreements()):
            raise ValueError("\n".join(problems))
        return self

    @property
    def overrides(self) -> dict[str, Any]:
        """What makes the network, besides the variant's name and the width of its head, which the data may decide."""
        return self.model_dump(exclude={"name", "init_from", "init_weights", "num_classes"})

    def _disagreements(self) -> Iterator[str]:
        # What depends on the variant's own numbers too is for cait_dist.models.Architecture to say.
        if self.class_token == "inserted" and self.insert_class_token_at is None:
            yield "class_token 'inserted' needs insert_class_token_at, the number of blocks before it joins"
        if self.class_token != "inserted" and self.insert_class_token_at is not None:
            yield (
                f"insert_class_token_at {self.insert_class_token_at} needs class_token 'inserted', but class_token is"
                f" '{self.class_token}': set it to null"
            )
        if self.class_token != "class_attention" and self.depth_token_only is not None:
            yield (
                f"depth_token_only {self.depth_token_only} needs class_token 'class_attention', but class_token is"
                f" '{self.class_token}': set it to null"
            )
        if self.class_token != "class_attention" and not self.class_attention_mlp:
            yield (
                "class_attention_mlp false needs class_token 'class_attention', but class_token is"
                f" '{self.class_token}': leave it true"
            )
        if self.layer_scale_init is not None and self.residual not in ("layer_scale", "scalar"):
            yield (
                f"layer_scale_init {self.layer_scale_init:g} needs residual 'layer_scale' or 'scalar', but residual is"
                f" '{self.residual}': set it to null"
            )
