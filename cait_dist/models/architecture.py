"""The numbers that define a CaiT, checked: from them alone follow its shapes, its parameters and its arithmetic.

A network is ``Cait(Architecture(...))``; the planner counts multiply-adds and parameters from the same object without
building anything. The variants of the paper are in :mod:`cait_dist.models.zoo`.
"""

import math
from dataclasses import dataclass

_COUNTS = (
    "image_size",
    "patch_size",
    "in_chans",
    "num_classes",
    "embed_dim",
    "depth",
    "depth_token_only",
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
        depth_token_only: Number of class-attention blocks.
        num_heads: Attention heads, in both stages.
        mlp_ratio: Hidden width of the feed-forward networks over d.
        layer_scale_init: Value with which LayerScale starts (epsilon of the paper, section 2).
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
    depth_token_only: int = 2
    num_heads: int
    mlp_ratio: float = 4.0
    layer_scale_init: float
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
        if not 0.0 < self.layer_scale_init < math.inf:
            raise ValueError(f"layer_scale_init must be a positive number such as 1e-5, got {self.layer_scale_init}")
        self._check_divisions()

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


def _neighbours(value: int, divisor: int) -> str:
    below = value // divisor * divisor
    return f"{below} and {below + divisor}" if below else f"{divisor}"
