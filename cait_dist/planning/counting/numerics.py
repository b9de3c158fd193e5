"""How wide the numbers of a run are: what follows from its precision and ZeRO stage.

bf16 means two things. Without partitioning (stage 0) parameters stay float32 and the products run under autocast, which
keeps a narrow copy of every weight while a forward pass runs. From stage 1 on the parameters themselves are bf16, and
the optimizer updates a float32 master copy of which each rank holds its part.
"""

from dataclasses import dataclass
from typing import Literal

WIDE = 4
"""bytes of a float32: the residual stream, master weights, moments and the moving average are never narrower"""

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Numerics:
    """Bytes per number.

    Attributes:
        parameter: of a parameter as the model computes with it, and of its gradient.
        product: of what matrix products take and give.
    """

    parameter: int
    product: int

    @property
    def autocast(self) -> bool:
        """Whether narrow copies of wide weights are made."""
        return self.product < self.parameter


def numerics(precision: Precision, stage: int) -> Numerics:
    """What `cait train` computes with."""
    if precision == "fp32":
        return Numerics(WIDE, WIDE)
    return Numerics(WIDE if stage == 0 else 2, 2)
