"""The LayerScale residual, the one rule by which CaiT adds a branch to the stream.

    x  <-  x + keep / (1 - p) · gamma · branch(x)

gamma is a learned vector of length d, one per branch, that starts at a tiny epsilon: at first every block is almost the
identity, and each channel learns by itself how much of the branch to let in. This is what makes deep CaiT trainable
("Going deeper with Image Transformers", arXiv 2103.17239, section 2 and figure 1d).
"""

from collections.abc import Callable

from torch import Tensor

from cait_dist.ops import drop_path


def layer_scale_residual(
    x: Tensor, branch: Callable[[Tensor], Tensor], gamma: Tensor, keep: Tensor | None, drop_path_rate: float
) -> Tensor:
    """Adds a scaled branch to the residual stream, in the dtype of the stream.

    Args:
        x: The stream (B, T, d), float32 or wider.
        branch: Normalisation and attention, or normalisation and feed-forward network: (B, T, d) -> (B, T, d).
        gamma: LayerScale (d,), in any floating dtype.
        keep: (B,) bool, False for the samples whose branch is dropped in this step; None drops nothing.
        drop_path_rate: The rate with which ``keep`` was drawn.

    Returns:
        (B, T, d) in the dtype of ``x``.
    """
    scale = gamma.to(x.dtype)
    if keep is not None:
        # On gamma, B·d numbers, instead of on the branch, B·T·d of them: the product is the same.
        scale = drop_path(scale.expand(x.shape[0], 1, -1), keep, drop_path_rate)
    return x + scale * branch(x)
