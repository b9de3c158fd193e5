"""Where the class token looks: its attention over the patches, per class-attention layer and head.

The class token is the only query of these layers, so each head has one row of attention: over the class token itself,
and over the patches. The entry for itself is dropped, the rest has the shape of the image's grid of patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cait_dist.models import Cait

from .errors import AnalysisError


@torch.no_grad()
def measure_maps(model: Cait, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of the class token.

    Args:
        model: in evaluation mode
        batches: normalised images

    Returns:
        Over the patches (images, layers, heads, grid, grid), and over the class token itself (images, layers, heads):
        together they sum to one. And the logits (images, classes).

    Raises:
        AnalysisError: if the model has no class-attention layers
    """
    attentions = [block.attn for block in model.blocks_token_only]
    if not attentions:
        raise AnalysisError("this model has no class-attention layers: there is no row of the class token to draw")
    found: list[Tensor] = []
    logits: list[Tensor] = []
    for batch in batches:
        with _rows(attentions) as rows:
            logits.append(model(batch).float().cpu())
        found.append(torch.stack([rows[number] for number in range(len(attentions))], dim=1).cpu())
    attention = torch.cat(found)  # (images, layers, heads, 1 + N)
    grid = model.arch.grid_size
    return attention[..., 1:].unflatten(-1, (grid, grid)), attention[..., 0], torch.cat(logits)


@contextmanager
def _rows(attentions: Sequence[Any]) -> Iterator[dict[int, Tensor]]:
    """Filled with each layer's attention (b, heads, 1 + N) while the model runs."""
    rows: dict[int, Tensor] = {}
    queries: dict[int, Tensor] = {}
    removers: list[Callable[[], None]] = []
    for number, attn in enumerate(attentions):

        def note_query(_: nn.Module, inputs: object, output: Tensor, number: int = number) -> None:
            queries[number] = output

        def attend(
            _: nn.Module, inputs: object, output: Tensor, number: int = number, heads: int = attn.num_heads
        ) -> None:
            q, k = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries.pop(number), output))
            logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5  # (b, heads, 1, 1 + N)
            rows[number] = logits.softmax(-1)[:, :, 0]

        removers += [attn.q.register_forward_hook(note_query).remove, attn.k.register_forward_hook(attend).remove]
    try:
        yield rows
    finally:
        for remove in removers:
            remove()
