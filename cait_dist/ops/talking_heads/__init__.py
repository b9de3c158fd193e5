"""Talking-heads attention: attention whose heads exchange information before and after the softmax.

Plain multi-head attention keeps its H attention maps apart. Here two small (H, H) linear maps mix them: ``proj_l``
mixes the logits, ``proj_w`` mixes the probabilities. CaiT uses it in every self-attention block ("Going deeper with
Image Transformers", arXiv 2103.17239, section 4, after Shazeer et al., arXiv 2003.02436):

    S = scale · q kᵀ          one (N, N) map per head
    L = W_l S + b_l           mixed over heads
    P = softmax(L)            over keys
    A = W_w P + b_w           mixed over heads; its rows need not sum to one, and may be negative
    out = A v

The mixing is why no ready-made fused attention kernel fits: each output head needs the maps of all heads at once.

This module is the one door to that operation. Behind it stand several backends that compute the same function:

* :mod:`.eager`, the definition and the oracle: plain autograd, which keeps several (B, H, N, N) tensors for backward;
* :mod:`.chunked`: block by block in a bounded workspace, keeping q, k and v alone;
* :mod:`.native`: the same on a CPU that has a C compiler, with one compiled pass over each row for all that lies
  between the matrix products;
* :mod:`.fused`: the same on a GPU, with Triton kernels in its place.

The latter three are one operator of torch (:mod:`.operator`), so that a compiler takes them as a single step. Dropout
on the mixed map is a further pass over it (:mod:`.map_dropout`).
:mod:`.choice` is the one place that decides which of them runs.
"""

from torch import Tensor

from ..product_dtype import product_dtype
from . import eager, operator
from .choice import available_backends, choose_backend, override_backend

__all__ = ["available_backends", "choose_backend", "override_backend", "talking_heads_attention"]


def talking_heads_attention(
    qkv: Tensor,
    proj_l_weight: Tensor,
    proj_l_bias: Tensor,
    proj_w_weight: Tensor,
    proj_w_bias: Tensor,
    *,
    scale: float,
    dropout_p: float = 0.0,
    training: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Attends with heads mixed before and after the softmax.

    The products run in the dtype of ``qkv`` (or that of autocast), the softmax in at least float32.

    Args:
        qkv: Queries, not yet scaled, keys and values: (3, B, H, N, d), in any layout.
        proj_l_weight: Mixes the logits, (H, H): output head by input head.
        proj_l_bias: (H,). It shifts whole rows of logits, so the softmax cancels it: it has no effect and no gradient
            but rounding noise (in ``eager``; elsewhere exactly zero). It exists because published weights have it.
        proj_w_weight: Mixes the probabilities, (H, H).
        proj_w_bias: (H,), added to every entry of a head's attention map.
        scale: Factor on q kᵀ, usually d ** -0.5.
        dropout_p: Probability of zeroing an entry of the mixed map; active only when ``training``. What falls out
            follows from torch's global random numbers, and differs from backend to backend.
        training: Whether dropout is active.
        backend: One of :func:`available_backends`; None leaves the choice to :func:`choose_backend`.

    Returns:
        (B, H, N, d), in the dtype of the products. All but ``eager`` lay it out as (B, N, H, d), so that joining the
        heads of a token copies nothing.

    Raises:
        ValueError: If the inputs do not fit each other, or the backend asked for does not exist or cannot run here.
    """
    mixing = (proj_l_weight, proj_l_bias, proj_w_weight, proj_w_bias)
    _check_inputs(qkv, *mixing)
    dropout_p = dropout_p if training else 0.0
    chosen = choose_backend(
        qkv.device,
        product_dtype(qkv),
        heads=qkv.shape[2],
        tokens=qkv.shape[3],
        backend=backend,
    )
    if chosen == "eager":
        return eager.attend(qkv, *mixing, scale=scale, dropout_p=dropout_p)
    return operator.attend(qkv, *mixing, scale=scale, backend=chosen, dropout_p=dropout_p)


def _check_inputs(qkv: Tensor, *mixing: Tensor) -> None:
    if qkv.ndim != 5 or len(qkv) != 3:
        raise ValueError(
            "talking_heads_attention needs queries, keys and values in one tensor (3, batch, heads, tokens, head_dim), "
            f"got {tuple(qkv.shape)}"
        )
    if qkv.numel() == 0:
        raise ValueError(
            "talking_heads_attention needs at least one sample, head, token and channel, got (batch, heads, tokens, "
            f"head_dim) = {tuple(qkv.shape[1:])}; leave the call out for an empty batch"
        )
    heads = qkv.shape[2]
    expected = [(heads, heads), (heads,)] * 2
    if [tuple(t.shape) for t in mixing] != expected:
        raise ValueError(
            f"with {heads} heads, proj_l and proj_w need weights ({heads}, {heads}) and biases ({heads},), "
            f"got {', '.join(str(tuple(t.shape)) for t in mixing)}"
        )
