"""Operations without parameters of their own: talking-heads attention and stochastic depth.

This floor imports nothing else of the project. Each public function is the one door to its operation, behind which a
faster implementation may be chosen.
"""

from .sample_drop import draw_keep_mask
from .talking_heads import available_backends, choose_backend, override_backend, talking_heads_attention

__all__ = [
    "available_backends",
    "choose_backend",
    "draw_keep_mask",
    "override_backend",
    "talking_heads_attention",
]
