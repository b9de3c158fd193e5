"""The ways to add a residual branch to the stream, as combinations of four small parts (figure 1 of the paper).

    x  <-  x + scale · f(norm(x))        f: attention, or feed-forward network

What a way consists of: a norm before the branch or none; a learned scale after it (none, one number α, or one number
per channel, LayerScale's γ) and the value with which that starts; where the weights of the branch start; and scalar
biases inside the branch, which only Fixup has.

============================  ====  ==================  ========  ====================================================
``model.residual``            norm  scale starts at     weights   figure 1
============================  ====  ==================  ========  ====================================================
``pre_norm``                  yes   –                   CaiT      (a) ViT and DeiT
``rezero``, ``skip_init``     no    α = 0               CaiT      (b) in its own form: meant for no warm-up
``fixup``                     no    α = 1               Fixup     (b) likewise, with scalar biases
``t_fixup``                   no    –                   T-Fixup   (b) likewise
``rezero_adapted``            yes   α = 0               CaiT      (c) norm, and warm-up in the schedule, put back
``fixup_adapted``             yes   α = 1               Fixup     (c)
``t_fixup_adapted``           yes   α = 1               T-Fixup   (c)
``scalar``                    yes   α = ε               CaiT      (c) with LayerScale's ε for the scalar
``layer_scale``               yes   γ = ε per channel   CaiT      (d)
============================  ====  ==================  ========  ====================================================

"CaiT" is "Going deeper with Image Transformers" (arXiv 2103.17239), section 2: (b) drops the norm and the warm-up and
did not converge on vision transformers, (c) puts both back. There each branch has an α of its own. Readings of ours,
where no public source decides:

* Without a norm in the branches there is none before the classifier either.
* ReZero (arXiv 2003.04887) and SkipInit (arXiv 2002.10444) are the same function with the same start here. They differ
  outside: ReZero's own transformer layer shares one α between attention and feed-forward network, where CaiT draws one
  each; SkipInit was made for convolutional networks, in place of batch normalisation. Both names exist so that a
  configuration can say what it means.
* T-Fixup has no multipliers of its own; the α of its adapted form is the one that figure 1 (c) draws, starting where
  Fixup's does.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ResidualBranch:
    """One way to add a branch.

    Attributes:
        norm: Whether the branch begins with a LayerNorm.
        scale: What multiplies its output: nothing, a scalar ``alpha_*``, or a vector ``gamma_*``.
        start: Value with which the scale starts; None is ε, ``layer_scale_init``.
        weights: Initialisation of the weights, see :mod:`cait_dist.models.initialise`.
    """

    norm: bool = True
    scale: Literal["none", "scalar", "channel"] = "none"
    start: float | None = 0.0
    weights: Literal["cait", "fixup", "t_fixup"] = "cait"

    @property
    def takes_epsilon(self) -> bool:
        """Whether ``layer_scale_init`` means something here."""
        return self.scale != "none" and self.start is None

    @property
    def has_shifts(self) -> bool:
        """Whether a scalar bias stands before each linear layer and activation."""
        return self.weights == "fixup"


RESIDUALS: dict[str, ResidualBranch] = {
    "layer_scale": ResidualBranch(scale="channel", start=None),
    "pre_norm": ResidualBranch(),
    "rezero": ResidualBranch(norm=False, scale="scalar"),
    "skip_init": ResidualBranch(norm=False, scale="scalar"),
    "fixup": ResidualBranch(norm=False, scale="scalar", start=1.0, weights="fixup"),
    "t_fixup": ResidualBranch(norm=False, weights="t_fixup"),
    "rezero_adapted": ResidualBranch(scale="scalar"),
    "fixup_adapted": ResidualBranch(scale="scalar", start=1.0, weights="fixup"),
    "t_fixup_adapted": ResidualBranch(scale="scalar", start=1.0, weights="t_fixup"),
    "scalar": ResidualBranch(scale="scalar", start=None),
}
