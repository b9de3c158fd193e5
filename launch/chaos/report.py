"""What the strikes came to: JSON for programs, a table for people."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cait_dist.tracking.metrics import series
from cait_dist.tracking.run_directory import read_json, write_json

from .fault import Fault
from .subject import Subject
from .trial import Struck

COLUMNS = ("fault", "strikes", "survived", "steps repeated", "seconds to recover", "difference of the loss", "weights")


@dataclass(frozen=True)
class Difference:
    """How a struck run differs from the undisturbed one.

    Attributes:
        steps: that both have a loss of.
        loss: the largest difference of any step's.
        final_loss: that of the last step.
        same_weights: whether weights, moments and averages of the last checkpoint are equal, bit for bit.
    """

    steps: int
    loss: float
    final_loss: float
    same_weights: bool


def difference(struck: Subject, undisturbed: Subject) -> Difference:
    """Compare two finished runs of the same configuration on the same number of ranks."""
    ours, theirs = (series(subject.rows(), "train/loss") for subject in (struck, undisturbed))
    assert [step for step, _ in ours] == [step for step, _ in theirs], "finished runs have every step"
    gaps = [abs(a - b) for (_, a), (_, b) in zip(ours, theirs, strict=True)]
    return Difference(len(gaps), max(gaps), gaps[-1], _digests(struck) == _digests(undisturbed))


def _digests(subject: Subject) -> dict[str, str]:
    files: dict[str, Any] = subject.checkpoints()[-1].state["files"]
    return {name: entry["sha256"] for name, entry in files.items()}


@dataclass(frozen=True)
class Result:
    """Of one fault.

    Attributes:
        fault: its name.
        story: what was done.
        strikes: each of them.
        differences: of each run that was struck.
        failure: why it was given up, if it was.
    """

    fault: str
    story: str
    strikes: tuple[Struck, ...]
    differences: tuple[Difference, ...] = ()
    failure: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every run ended as if nothing had happened."""
        return self.failure is None and all(d.loss == 0 and d.same_weights for d in self.differences)

    def save(self, folder: Path) -> None:
        """Keep it."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{self.fault}.json", asdict(self))

    @classmethod
    def load(cls, folder: Path, fault: Fault) -> Result | None:
        """The result of a fault, if there is one."""
        found = read_json(folder / f"{fault.name}.json")
        if not found:
            return None
        strikes = tuple(Struck(**each) for each in found["strikes"])
        differences = tuple(Difference(**each) for each in found["differences"])
        return cls(**{**found, "strikes": strikes, "differences": differences})


def table(results: Sequence[Result]) -> str:
    """Markdown."""
    rows = [COLUMNS, tuple("---" for _ in COLUMNS), *(_row(result) for result in results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(result: Result) -> tuple[str, ...]:
    strikes, differences = result.strikes, result.differences
    if not differences:
        return result.fault, str(len(strikes)), "no", "", "", "", ""
    alone = sum(struck.by_itself for struck in strikes)
    survived = f"{len(strikes)}" if alone == len(strikes) else f"{len(strikes)}, {len(strikes) - alone} launched again"
    return (
        result.fault,
        str(len(strikes)),
        survived if result.failure is None else "no",
        _spread([struck.repeated for struck in strikes]),
        _spread([struck.seconds for struck in strikes]),
        f"{max(found.loss for found in differences):g}",
        "equal" if all(found.same_weights for found in differences) else "differ",
    )


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):g} ({min(values):g} to {max(values):g})"
