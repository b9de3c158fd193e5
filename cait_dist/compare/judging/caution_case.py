"""What the cautions look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..comparison import Group
from ..measures import set_and_weights, set_names
from ..run_data import RunData


@dataclass(frozen=True)
class Case:
    """A comparison, as far as it is known when its cautions are looked for."""

    runs: Sequence[RunData]
    groups: Sequence[Group]
    metric: str

    @cached_property
    def set(self) -> str:
        """The evaluation set of the metric."""
        return set_and_weights(self.metric, [name for run in self.runs for name in set_names(run)])[0]
