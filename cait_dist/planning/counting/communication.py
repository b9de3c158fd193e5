"""What the ranks send each other in a step, and how long a network needs at least.

Every exchange is a ring: to sum or to share out S bytes over W ranks each sends S (W - 1) / W, to do both twice that.
With P parameters of p bytes (see :mod:`.state_memory`), DeepSpeed as it comes configured does per step:

    stage 0     all-reduce of float32 gradients                          8 P (W - 1) / W   bytes sent by each rank
    stage 1     all-reduce of gradients, all-gather of new weights       3 p P (W - 1) / W
    stage 2     the same; gradients after every micro-batch              (2 a + 1) p P (W - 1) / W
    stage 3     all-gather of weights, reduce-scatter of gradients       2 a p P (W - 1) / W

for a micro-batches per step. Two things may surprise. Stages 1 and 2 sum gradients on every rank and keep a part, where
a reduce-scatter would do (``use_multi_rank_bucket_allreduce``). And stage 3 fetches weights once, not twice, as they
fit what it may keep between forward and backward pass. The tests count what real ranks send.

Where a ring leaves the node, all adapters of the node carry it together, each a part.
"""

from dataclasses import dataclass

from .numerics import Numerics


@dataclass(frozen=True)
class Network:
    """How ranks are connected, bytes/s and direction.

    Attributes:
        ranks_per_node: GPUs in a node.
        within: of one GPU to the others of its node.
        between: of one GPU's adapter to other nodes.
    """

    ranks_per_node: int
    within: float
    between: float

    def bandwidth(self, ranks: int) -> float:
        """Of the slowest link of a ring over so many ranks."""
        if ranks <= self.ranks_per_node:
            return self.within
        return min(self.within, self.between * self.ranks_per_node)


@dataclass(frozen=True)
class Traffic:
    """Bytes that each rank sends in a step.

    Attributes:
        gradients: to sum them.
        weights: to fetch whole parameters.
    """

    gradients: float
    weights: float

    @property
    def total(self) -> float:
        """Both."""
        return self.gradients + self.weights

    def seconds(self, network: Network, ranks: int) -> float:
        """At the bandwidth alone: without latency, and with nothing in the way, so at least."""
        return self.total / network.bandwidth(ranks) if ranks > 1 else 0.0


def count_traffic(params: int, width: Numerics, stage: int, ranks: int, accumulation: int) -> Traffic:
    """Count what one rank sends in a step."""
    once = width.parameter * params * (ranks - 1) / ranks
    if stage == 0:
        return Traffic(2 * once, 0.0)
    if stage == 1:
        return Traffic(2 * once, once)
    if stage == 2:
        return Traffic(2 * once * accumulation, once)
    return Traffic(once * accumulation, once * accumulation)
