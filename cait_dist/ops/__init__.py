"""Operations without parameters of their own: talking-heads attention, scaled linear layers and stochastic depth.

This floor imports nothing else of the project. Each public function is the one door to its operation, behind which a
faster implementation may be chosen.
"""

from .float8_products import MULTIPLE as FLOAT8_MULTIPLE
from .float8_products import float8_trouble
from .product_dtype import product_dtype
from .sample_drop import draw_keep_mask
from .scaled_linear import scale_outside, scaled_linear
from .talking_heads import available_backends, choose_backend, override_backend, talking_heads_attention

__all__ = [
    "FLOAT8_MULTIPLE",
    "available_backends",
    "choose_backend",
    "draw_keep_mask",
    "float8_trouble",
    "override_backend",
    "product_dtype",
    "scale_outside",
    "scaled_linear",
    "talking_heads_attention",
]
