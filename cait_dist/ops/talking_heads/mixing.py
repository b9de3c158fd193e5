"""What talking-heads attention needs to know besides queries, keys and values."""

from dataclasses import dataclass

from torch import Tensor

from .map_dropout import MapDropout


@dataclass(frozen=True)
class Mixing:
    """How heads are mixed, and how that is to be computed.

    Attributes:
        w_l: Mixes logits, (H, H), in the dtype of queries, keys and values.
        w_w: Mixes probabilities, likewise.
        b_w: (H,), float32 at least. What is summed over rows is summed in its dtype.
        scale: Factor on q kᵀ.
        workspace_bytes: Bound on the maps that exist at once; None takes the backend's own.
        dropout: On the mixed map, or None.
    """

    w_l: Tensor
    w_w: Tensor
    b_w: Tensor
    scale: float
    workspace_bytes: int | None
    dropout: MapDropout | None
