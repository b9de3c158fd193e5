"""Which differences between groups are real, and in words how that is known.

Every group is held against the baseline, and the best against the second: not every pair, of which there would be
thousands, and whose correction would leave nothing significant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .. import wording
from ..comparison import Group, PairTest
from ..measures import set_and_weights, set_names
from ..run_data import RunData
from .groups import counted
from .image_tests import ImageTest, compare_images
from .seed_tests import MOST_SEEDS, SeedTest, compare_seeds

LEVEL = 0.05
REPEAT = "repeat each with seed=0..2"
ALONE = "a single run tells nothing of luck"


@dataclass(frozen=True)
class Evidence:
    """What was found about two groups, before it is corrected for how many were looked at."""

    a: Group
    b: Group
    found: SeedTest | ImageTest | str
    runs: tuple[str, str] | None = None

    @property
    def p(self) -> float | None:
        """Uncorrected."""
        return None if isinstance(self.found, str) else self.found.p


def judge_pairs(
    groups: Sequence[Group], baseline: str, runs: Mapping[str, RunData], metric: str
) -> tuple[PairTest, ...]:
    """Test each group against the baseline, and the best against the second.

    Args:
        groups: best first
        baseline: label of one of them
        runs: by name
        metric: that is compared

    Returns:
        the tests, their p corrected by Holm's method
    """
    reference = next(group for group in groups if group.label == baseline)
    pairs = [(group, reference) for group in groups if group is not reference]
    if len(groups) > 2 and reference not in groups[:2]:
        pairs.append((groups[0], groups[1]))
    evidence = [gather(a, b, runs, metric) for a, b in pairs]
    corrected = holm([each.p for each in evidence])
    number = sum(p is not None for p in corrected)
    return tuple(_in_words(each, p, number, metric) for each, p in zip(evidence, corrected, strict=True))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction: the chance of one false alarm among all stays below the level. None is no test."""
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        corrected[place] = highest
    return corrected


def gather(a: Group, b: Group, runs: Mapping[str, RunData], metric: str) -> Evidence:
    """The best evidence there is: over seeds, else over images, else why there is none."""
    for group in (a, b):
        if not group.n:
            return Evidence(a, b, f"no run of {group.label} has a {metric} that counts: see the cautions")
    if _other_images(a, b, runs, metric):
        return Evidence(a, b, "they were not measured on the same images: evaluate both on one set")
    over_seeds = compare_seeds(counted(a), counted(b))
    if over_seeds is not None:
        return Evidence(a, b, over_seeds)
    pair = _two_runs(a, b)
    return Evidence(a, b, _over_images(runs[pair[0]], runs[pair[1]], metric), pair)


def _other_images(a: Group, b: Group, runs: Mapping[str, RunData], metric: str) -> bool:
    digests = [
        {
            facts.sets[name].digest
            for run in group.runs
            if (facts := runs[run].facts) and (name := set_and_weights(metric, set_names(runs[run]))[0]) in facts.sets
        }
        for group in (a, b)
    ]
    return bool(digests[0] and digests[1] and digests[0] != digests[1])


def _two_runs(a: Group, b: Group) -> tuple[str, str]:
    """A run of each, with the same seed if there are such."""
    seeds = [
        {seed: name for name, seed in zip(group.runs, group.seeds, strict=True) if name not in group.left_out}
        for group in (a, b)
    ]
    common = [seed for seed in seeds[0] if seed in seeds[1]]
    first = (common[0], common[0]) if common else (next(iter(seeds[0])), next(iter(seeds[1])))
    return seeds[0][first[0]], seeds[1][first[1]]


def _over_images(a: RunData, b: RunData, metric: str) -> ImageTest | str:
    quantity = metric.rpartition("/")[2]
    if quantity != "top1":
        return f"{ALONE}, and saved predictions tell of top1, not of {quantity}: {REPEAT}"
    files = [run.predictions.get("/".join(set_and_weights(metric, set_names(run)))) for run in (a, b)]
    lacking = [run.name for run, path in zip((a, b), files, strict=True) if path is None]
    if files[0] is None or files[1] is None:
        return f"{ALONE}, and {wording.names(lacking)} saved no predictions: {REPEAT}"
    found = compare_images(files[0], files[1])
    return f"{ALONE}, and {found}: {REPEAT}" if isinstance(found, str) else found


def _in_words(evidence: Evidence, p: float | None, pairs: int, metric: str) -> PairTest:
    a, b, found = evidence.a, evidence.b, evidence.found
    significant = p is not None and p < LEVEL
    if isinstance(found, str):
        difference = a.mean - b.mean
        sentence = f"{a.label} against {b.label}: {_gap(metric, difference)}no test, as {found}."
        return PairTest(a.label, b.label, "none", difference, None, None, None, False, sentence, reason=found)
    if isinstance(found, ImageTest):
        method, sentence = "McNemar", _about_images(evidence, found, p, pairs, metric)
    else:
        method, sentence = found.method, _about_seeds(evidence, found, p, pairs, metric)
    return PairTest(
        a.label,
        b.label,
        method,
        found.difference,
        found.low,
        found.high,
        p,
        significant,
        sentence,
        needed=found.needed if isinstance(found, SeedTest) else None,
        reason="runs of the same setting do not differ at all" if p is None else "",
        runs=evidence.runs or (),
    )


def _gap(metric: str, difference: float) -> str:
    return f"{wording.difference(metric, difference)}, but " if math.isfinite(difference) else ""


def _about_seeds(evidence: Evidence, found: SeedTest, p: float | None, pairs: int, metric: str) -> str:
    a, b, gap = evidence.a.label, evidence.b.label, wording.difference(metric, found.difference)
    how = _how(found)
    if p is None:
        return (
            f"{a} against {b}: {gap}, but no test ({how}), as runs of the same setting do not differ at all, "
            f"so that nothing tells of luck; repeat with more seeds."
        )
    if found.low is None or found.high is None:
        return f"{a} and {b} do not differ at all ({how})."
    numbers = f"95 % CI {wording.interval(metric, found.low, found.high)}, {_p(p, pairs)}; {how}"
    if p < LEVEL:
        return f"{a} against {b}: {gap}, significant ({numbers})."
    return f"{a} against {b}: {gap}, not significant ({numbers}){advice(found.needed)}."


def advice(needed: int | None) -> str:
    """How many seeds would help, as the end of a sentence; nothing if nobody can tell."""
    if needed is None:
        return ""
    if needed > MOST_SEEDS:
        return f"; more than {MOST_SEEDS} seeds per setting would be needed to tell a difference this small from luck"
    return f"; about {needed} seeds per setting would be needed to tell a difference this small from luck"


def _how(found: SeedTest) -> str:
    if found.method.startswith("paired"):
        return f"paired over {found.seeds[0]} common seeds"
    return f"Welch's t, {found.seeds[0]} and {found.seeds[1]} seeds"


def _p(p: float, pairs: int) -> str:
    return wording.p_value(p) + (f" corrected for {pairs} comparisons" if pairs > 1 else "")


def _about_images(evidence: Evidence, found: ImageTest, p: float | None, pairs: int, metric: str) -> str:
    a, b = evidence.runs or (evidence.a.label, evidence.b.label)
    steps = "" if found.steps[0] == found.steps[1] else f", at steps {found.steps[0]:,} and {found.steps[1]:,}"
    verdict = "significant" if p is not None and p < LEVEL else "not significant"
    return (
        f"{a} against {b}: {wording.difference(metric, found.difference)} on {found.images:,} images{steps}, {verdict} "
        f"(95 % CI {wording.interval(metric, found.low, found.high)}, McNemar's {_p(p or 0.0, pairs)}; only the first "
        f"is right on {found.only_a:,}, only the second on {found.only_b:,}). This is about these two sets of weights: "
        f"whether the setting is better, only more seeds can tell ({REPEAT})."
    )
