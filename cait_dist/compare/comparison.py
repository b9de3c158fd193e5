"""The outcome of a comparison: everything that is shown, already decided. Plain facts, ready for JSON.

The table, the page, the CSV and the gate read this and compute nothing themselves, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .run_data import RunData


@dataclass(frozen=True)
class Difference:
    """A setting, or a fact about code, data or environment, that is not the same in all runs.

    Attributes:
        kind: ``config``, ``data``, ``code`` or ``environment``.
        key: dotted, e.g. ``optimizer.lr``.
        values: one per run, in the order of the runs, as text; empty where a run does not have it.
        decides: whether it may change what the model learns (`optimizer.lr` may, `data.workers` may not).
    """

    kind: str
    key: str
    values: tuple[str, ...]
    decides: bool


@dataclass(frozen=True)
class Efficiency:
    """What a run cost. None where it is not known.

    Attributes:
        images_per_second: typical, over all devices.
        images_per_second_per_device: the same for one device.
        mfu: share of the devices' peak that the model's own arithmetic reached (6 FLOP per multiply-add and image).
        device_hours: hours that devices were held.
        wall_seconds: from the beginning to the last sign of life.
        cost: device-hours times the given price.
        data_wait_share: mean share of the step spent waiting for images.
        lost_seconds: time lost to restarts.
        redone_steps: steps done twice.
        restarts: attempts after the first.
        peak_memory_gb: of one rank.
        scaling: speed per device, relative to the run on the fewest devices with the same settings.
        seconds_to_target: wall seconds until the metric first reached the target; None if it never did.
        device_hours_to_target: the same in device-hours.
    """

    images_per_second: float | None = None
    images_per_second_per_device: float | None = None
    mfu: float | None = None
    device_hours: float | None = None
    wall_seconds: float | None = None
    cost: float | None = None
    data_wait_share: float | None = None
    lost_seconds: float | None = None
    redone_steps: int | None = None
    restarts: int | None = None
    peak_memory_gb: float | None = None
    scaling: float | None = None
    seconds_to_target: float | None = None
    device_hours_to_target: float | None = None


@dataclass(frozen=True)
class PaperRow:
    """A published result of one model.

    Attributes:
        model: e.g. ``CaiT-S24``.
        image_size: in pixels.
        distilled: with a teacher's help.
        top1: in percent, on ImageNet's validation set.
        parameters: number.
        macs: multiply-adds of a forward pass.
        source: where the number was read; never empty.
    """

    model: str
    image_size: int
    distilled: bool
    top1: float
    parameters: int
    macs: int
    source: str


@dataclass(frozen=True)
class PaperDistance:
    """A run beside its row in the paper.

    Attributes:
        row: the published result of the same model, None if there is none.
        difference: points of top-1 that the run is above the row; None unless the recipes can be compared.
        reasons: why they cannot, in words; empty if they can.
    """

    row: PaperRow | None
    difference: float | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class RunRow:
    """One run's results.

    Attributes:
        name: of the run.
        outcome: finished, stopped, failed, lost or running.
        steps: done.
        epochs: done, None if not known.
        last: value at the end by metric, e.g. ``val/top1``; of ``perf/`` the typical value. Of every metric.
        best: best value by metric, and best over epochs is chosen by looking at the set: see the cautions.
            Of evaluation metrics.
        efficiency: what it cost.
        paper: the paper's row and the distance to it.
    """

    name: str
    outcome: str
    steps: int
    epochs: float | None
    last: Mapping[str, float]
    best: Mapping[str, float]
    efficiency: Efficiency
    paper: PaperDistance


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing that decides but their seed.

    Attributes:
        label: short and telling, from the settings that differ between groups: ``optimizer.lr=0.001``.
        settings: those settings.
        runs: names.
        seeds: of the runs, in the same order; −1 where a run does not tell.
        values: the metric's last values, in the same order; NaN where a run has none.
        mean: of those that count, NaN if none does.
        spread: their standard deviation (n − 1); None for one run.
        left_out: names of runs that do not count: diverged, without a value, or not finished where others are.
    """

    label: str
    settings: Mapping[str, str]
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    spread: float | None
    left_out: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Runs that count."""
        return len(self.runs) - len(self.left_out)


@dataclass(frozen=True)
class PairTest:
    """Whether the first of two groups is really better than the second.

    Attributes:
        a: label of a group.
        b: label of another.
        method: ``paired t over seeds``, ``Welch t over seeds``, ``McNemar`` (over images; its interval is a paired
            bootstrap), or ``none`` where nothing can be tested.
        difference: mean of a minus mean of b, in the metric's unit.
        low: end of the 95 % confidence interval of the difference; None if there is none.
        high: the other end.
        p: chance of a difference this large were there none, two-sided; corrected for the number of pairs that were
            compared. None if there is no test.
        significant: p below 0.05.
        sentence: the same in plain words.
        needed: seeds of each setting that would show a difference of this size four times in five; None if not known.
        reason: why there is no test; empty if there is one.
        runs: of a and of b whose predictions were compared; empty for a test over seeds.
    """

    a: str
    b: str
    method: str
    difference: float
    low: float | None
    high: float | None
    p: float | None
    significant: bool
    sentence: str
    needed: int | None = None
    reason: str = ""
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Caution:
    """Something that makes the comparison less than it looks.

    Attributes:
        kind: a word to search for: ``other-validation-set``, ``image-size``, ``best-of-many``, …
        text: one or two sentences with names and numbers.
        runs: names of those concerned.
    """

    kind: str
    text: str
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Everything there is to say about some runs beside each other.

    Attributes:
        runs: the runs themselves, for their curves.
        rows: one per run, in the same order.
        metric: that decides, e.g. ``val/top1``.
        higher_is_better: whether more of it is better.
        baseline: label of the group that the others are held against.
        differences: between the runs.
        groups: best first.
        tests: each group against the baseline, and the best against the second.
        cautions: most serious first.
        paper: the paper's rows that are shown as reference; empty unless asked for.
        verdict: one sentence.
        target: value of the metric that time to accuracy is measured to; None if none was given.
        notes: how it was compared, for whoever asks: the baseline, the correction.
    """

    runs: tuple[RunData, ...]
    rows: tuple[RunRow, ...]
    metric: str
    higher_is_better: bool
    baseline: str
    differences: tuple[Difference, ...]
    groups: tuple[Group, ...]
    tests: tuple[PairTest, ...]
    cautions: tuple[Caution, ...]
    paper: tuple[PaperRow, ...]
    verdict: str
    target: float | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)
