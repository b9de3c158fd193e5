"""Which activations are kept for the backward pass and which are computed again.

CaiT's memory is its attention maps: of the activations of one M-48 block at 448 px, about four fifths are the
heads × N × N tensors. Hence a policy that recomputes only the attention, besides the usual one per block.

======================  ==============================================================
``none``                keep everything
``attention``           recompute every talking-heads attention, keep the rest
``block``               keep only the input of each self-attention block
``every-K``             as ``block``, for every K-th block (``every-2`` : 0, 2, 4, …)
======================  ==============================================================

The model does not know: the forward method of each chosen module is wrapped from outside.
"""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from cait_dist.models import Cait


def apply_activation_checkpointing(model: Cait, policy: str) -> None:
    """Wrap the self-attention stage according to the policy, in place.

    Stochastic depth is drawn by the caller and passed in, so the recomputed branch drops the same samples.

    Args:
        model: before DeepSpeed takes it
        policy: none, attention, block or every-K, as the configuration spells it
    """
    if policy == "none":
        return
    if policy == "attention":
        for block in model.blocks:
            _recompute(block.get_submodule("attn"))
        return
    period = 1 if policy == "block" else int(policy.removeprefix("every-"))
    for block in list(model.blocks)[::period]:
        _recompute(block)


def _recompute(module: nn.Module) -> None:
    module.forward = partial(checkpoint, module.forward, use_reentrant=False)
