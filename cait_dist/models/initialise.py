"""The values parameters start from: CaiT's own, Fixup's, T-Fixup's.

**CaiT**: Normal(0, 0.02) for all linear layers (head mixing too) and embeddings, zero biases; the convolution keeps
torch's own. The other two change what follows, and leave the rest:

**Fixup** (Zhang et al. 2019, arXiv 1901.09321), its three rules: the classifier and the last layer of each residual
branch start at zero; the other layers of a branch are scaled by L^(-1/(2 m - 2)), for L branches of m layers; a scalar
multiplier of 1 per branch and a scalar bias of 0 before each linear layer and activation. UNSOURCED, from memory: the
sign of the exponent. Ours: the "standard initialisation" of the rules is CaiT's; m = 2 (attention: qkv and projection;
feed-forward: two layers), so that the factor is L^(-1/2); head mixing is not scaled.

**T-Fixup** (Huang et al. 2020), for N blocks: Xavier for every linear layer; the maps of the values, the projection
after attention and both layers of the feed-forward network times 0.67 N^(-1/4), and the embeddings times (9 N)^(-1/4):
these factors stand in third-party code, not seen in the paper. UNSOURCED, from memory: embeddings are drawn from
Normal(0, d^(-1/2)). Ours: Xavier is its uniform form, q, k and v count as a layer each, the patch embedding gets
Xavier and the factor of embeddings, and N counts both kinds of block.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .architecture import Architecture

INIT_STD = 0.02
LAYERS_PER_BRANCH = 2
_HEAD_MIXING = (".proj_l", ".proj_w")


@torch.no_grad()
def initialise(model: nn.Module, arch: Architecture) -> None:
    """Draws all parameters from torch's global random numbers.

    Args:
        model: A :class:`cait_dist.models.Cait` of that architecture.
        arch: Its shape.
    """
    embeddings = _embeddings(model)
    for layer in _linears(model).values():
        nn.init.trunc_normal_(layer.weight, std=INIT_STD)
        nn.init.zeros_(layer.bias)
    for embedding in embeddings:
        nn.init.trunc_normal_(embedding, std=INIT_STD)
    if arch.branch.weights == "fixup":
        _fixup(model, arch)
    elif arch.branch.weights == "t_fixup":
        _t_fixup(model, arch, embeddings)


def _fixup(model: nn.Module, arch: Architecture) -> None:
    factor = arch.num_branches ** (-1.0 / (2 * LAYERS_PER_BRANCH - 2))
    for name, layer in _linears(model).items():
        if name.endswith((".proj", ".fc2")) or name == "head":
            nn.init.zeros_(layer.weight)
        elif not name.endswith(_HEAD_MIXING):
            layer.weight.mul_(factor)


def _t_fixup(model: nn.Module, arch: Architecture, embeddings: Iterable[Tensor]) -> None:
    blocks = arch.depth + arch.class_blocks
    of_branches, of_embeddings = 0.67 * blocks**-0.25, (9 * blocks) ** -0.25
    for name, layer in _linears(model).items():
        for part in _maps(name, layer):
            nn.init.xavier_uniform_(part)
        if name.endswith((".qkv", ".v", ".proj", ".fc1", ".fc2")):
            _maps(name, layer)[-1].mul_(of_branches)  # of a fused qkv, the values
    for embedding in embeddings:
        nn.init.normal_(embedding, std=arch.embed_dim**-0.5).mul_(of_embeddings)
    patches = model.get_submodule("patch_embed.proj").get_parameter("weight")
    nn.init.xavier_uniform_(patches.flatten(1)).mul_(of_embeddings)


def _embeddings(model: nn.Module) -> list[Tensor]:
    own = dict(model.named_parameters(recurse=False))
    return [own[name] for name in ("cls_token", "pos_embed") if name in own]


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def _maps(name: str, layer: nn.Linear) -> tuple[Tensor, ...]:
    """The weight of a layer, or those of the three that a fused qkv is."""
    return layer.weight.chunk(3) if name.endswith(".qkv") else (layer.weight,)
