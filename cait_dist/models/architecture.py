"""The numbers that define a CaiT, checked: from them alone follow its shapes, its parameters and its arithmetic.

A network is ``Cait(Architecture(...))``; the planner counts multiply-adds and parameters from the same object without
building anything. The variants of the paper are in :mod:`cait_dist.models.zoo`, the ways to add a branch in
:mod:`cait_dist.models.branches`.
"""

import math
from dataclasses import dataclass

from .branches import RESIDUALS, ResidualBranch

CLASS_TOKENS = ("class_attention", "from_start", "inserted", "average_pooling")
"""Where the class token meets the patches (figure 2 of the paper)."""
CLASS_BLOCKS = 2

_COUNTS = (
    "image_size",
    "patch_size",
    "in_chans",
    "num_classes",
    "embed_dim",
    "depth",
    "num_heads",
)
_RATES = ("drop_path_rate", "drop_rate", "attn_drop_rate")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Shape and regularisation of one CaiT ("Going deeper with Image Transformers", arXiv 2103.17239, section 4).

    Attributes:
        image_size: Height and width of the input, in pixels.
        patch_size: Height and width of a patch, in pixels.
        in_chans: Channels of the input.
        num_classes: Width of the head.
        embed_dim: Width d of a token.
        depth: Number of self-attention blocks.
        depth_token_only: Number of class-attention blocks: 2 unless given, 0 where ``class_token`` is another design.
        num_heads: Attention heads, in both stages.
        mlp_ratio: Hidden width of the feed-forward networks over d.
        residual: How branches are added, a name of :data:`cait_dist.models.branches.RESIDUALS`.
        layer_scale_init: Value with which LayerScale, or the scalar in its place, starts (epsilon of the paper, section
            2); None takes :func:`layer_scale_by_depth`, and must stay where the residual knows no epsilon.
        class_token: ``class_attention`` is CaiT's second stage, ``from_start`` the class token of ViT and DeiT, which
            has a position of its own, ``inserted`` one that joins the patches later and has none; ``average_pooling``
            has no class token and averages the normalised patches.
        insert_class_token_at: Blocks that run before an ``inserted`` class token joins.
        class_attention_mlp: Whether class-attention blocks have a feed-forward network.
        talking_heads: Whether self-attention mixes its heads.
        drop_path_rate: Stochastic depth, the same rate in every self-attention block.
        drop_rate: Dropout after the position embedding, the attention projection and both feed-forward layers.
        attn_drop_rate: Dropout on the mixed attention map.

    Raises:
        ValueError: If the numbers cannot form a network; the message names them and the way out.
    """

    image_size: int
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int
    depth: int
    depth_token_only: int | None = None
    num_heads: int
    mlp_ratio: float = 4.0
    residual: str = "layer_scale"
    layer_scale_init: float | None = None
    class_token: str = "class_attention"
    insert_class_token_at: int | None = None
    class_attention_mlp: bool = True
    talking_heads: bool = True
    drop_path_rate: float = 0.0
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        for name in _RATES:
            if not 0.0 <= (value := getattr(self, name)) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {value}")
        self._settle_residual()
        self._settle_class_token()
        self._check_divisions()

    def _settle_residual(self) -> None:
        _check_choice("residual", self.residual, tuple(RESIDUALS))
        if not self.branch.takes_epsilon:
            if self.layer_scale_init is not None:
                raise ValueError(
                    f"layer_scale_init {self.layer_scale_init} means nothing with residual {self.residual!r}, whose "
                    "branches know no epsilon: leave it out, or choose layer_scale or scalar"
                )
        elif self.layer_scale_init is None:
            object.__setattr__(self, "layer_scale_init", layer_scale_by_depth(self.depth))
        elif not 0.0 < self.layer_scale_init < math.inf:
            raise ValueError(f"layer_scale_init must be a positive number such as 1e-5, got {self.layer_scale_init}")

    def _settle_class_token(self) -> None:
        _check_choice("class_token", self.class_token, CLASS_TOKENS)
        self._check_insertion()
        if self.class_token == "class_attention":
            blocks = CLASS_BLOCKS if self.depth_token_only is None else self.depth_token_only
            if not isinstance(blocks, int) or blocks < 1:
                raise ValueError(f"depth_token_only must be a whole number of at least 1, got {blocks!r}")
            object.__setattr__(self, "depth_token_only", blocks)
            return
        if self.depth_token_only or not self.class_attention_mlp:
            raise ValueError(
                f"depth_token_only and class_attention_mlp belong to class_token 'class_attention', but class_token is "
                f"{self.class_token!r}: leave them out"
            )
        object.__setattr__(self, "depth_token_only", 0)

    def _check_insertion(self) -> None:
        at = self.insert_class_token_at
        if self.class_token != "inserted":
            if at is not None:
                raise ValueError(
                    f"insert_class_token_at {at} belongs to class_token 'inserted', but class_token is "
                    f"{self.class_token!r}: leave it out, or choose inserted"
                )
        elif not isinstance(at, int) or not 1 <= at < self.depth:
            raise ValueError(
                f"class_token 'inserted' needs insert_class_token_at from 1 to {self.depth - 1} (depth {self.depth}), "
                f"got {at!r}; a class token before the first block is class_token from_start"
            )

    def _check_divisions(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}; "
                f"the nearest sizes that are: {_neighbours(self.image_size, self.patch_size)}"
            )
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}; "
                f"the nearest widths that are: {_neighbours(self.embed_dim, self.num_heads)}"
            )
        if self.mlp_hidden < 1:
            raise ValueError(
                f"mlp_ratio {self.mlp_ratio} leaves no hidden unit at embed_dim {self.embed_dim}; raise it"
            )

    @property
    def branch(self) -> ResidualBranch:
        """What a residual branch consists of."""
        return RESIDUALS[self.residual]

    @property
    def branch_start(self) -> float:
        """Value with which the scale of a branch starts."""
        start = self.layer_scale_init if self.branch.takes_epsilon else self.branch.start
        return start or 0.0

    @property
    def class_blocks(self) -> int:
        """Number of class-attention blocks."""
        return self.depth_token_only or 0

    @property
    def num_branches(self) -> int:
        """Residual branches of both stages."""
        return 2 * self.depth + (2 if self.class_attention_mlp else 1) * self.class_blocks

    @property
    def has_class_token(self) -> bool:
        """Whether there is a class token at all."""
        return self.class_token != "average_pooling"

    @property
    def num_positions(self) -> int:
        """Entries of the position embedding: the patches, and the class token where it is there from the start."""
        return self.num_patches + (self.class_token == "from_start")

    @property
    def grid_size(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patch tokens N; the class token is not among them."""
        return self.grid_size**2

    @property
    def head_dim(self) -> int:
        """Width of one attention head (48 in every variant of the paper)."""
        return self.embed_dim // self.num_heads

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the feed-forward networks."""
        return int(self.embed_dim * self.mlp_ratio)


def layer_scale_by_depth(depth: int) -> float:
    """Epsilon by the depth of the self-attention stage (section 2 of the paper): 0.1, 1e-5 beyond 18, 1e-6 beyond 24.

    Named variants have a value of their own, which is this one with one exception: XXS36 starts at 1e-5 in the code of
    the authors.
    """
    return 0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _neighbours(value: int, divisor: int) -> str:
    below = value // divisor * divisor
    return f"{below} and {below + divisor}" if below else f"{divisor}"
