"""How the attention maps of a batch are cut into blocks that fit a workspace of bounded size.

A block is a range of samples with a range of query rows. Whole samples share a block as long as they fit; where one
sample is too large, its rows are divided.
"""

from dataclasses import dataclass

from torch import Tensor

BUFFERS = 4
"""Maps that the backward pass of a block needs at once."""


@dataclass(frozen=True)
class Blocks:
    """Every pair of an entry of ``samples`` and one of ``rows`` is a block; all share the same memory."""

    samples: list[slice]
    rows: list[slice]
    heads: int
    tokens: int
    memory: list[Tensor]

    def maps(self, samples: slice, rows: slice) -> list[Tensor]:
        """The memory as maps of one block, (H·b, m, N) or (b·H, m, N); they hold what the last block left."""
        shape = (self.heads * (samples.stop - samples.start), rows.stop - rows.start, self.tokens)
        return [flat[: shape[0] * shape[1] * shape[2]].view(shape) for flat in self.memory]


def cut_into_blocks(q: Tensor, workspace_bytes: int) -> Blocks:
    """Cuts the attention of these queries and reserves the memory.

    Args:
        q: Queries (B, H, N, d).
        workspace_bytes: Bound on all maps of a block together. One query row of one sample is the least that is cut,
            even if it needs more.
    """
    batch, heads, tokens, _ = q.shape
    affordable_rows = max(1, workspace_bytes // (BUFFERS * heads * tokens * q.element_size()))
    if affordable_rows >= tokens:
        samples, rows = ranges(batch, affordable_rows // tokens), ranges(tokens, tokens)
    else:
        samples, rows = ranges(batch, 1), ranges(tokens, affordable_rows)
    largest = heads * samples[0].stop * rows[0].stop * tokens
    return Blocks(samples, rows, heads, tokens, [q.new_empty(largest) for _ in range(BUFFERS)])


def ranges(length: int, longest: int) -> list[slice]:
    """Cuts ``length`` into as few ranges as possible, of nearly equal lengths, the first among the longest."""
    count = -(-length // longest)
    step = -(-length // count)
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]
