"""Comparisons of made-up runs, as `cait_dist.compare` would make them of real ones.

`make_comparison` gives settings × seeds with curves, groups, tests, cautions and reference rows, the same at every
call. Nothing in it was trained: its numbers, those of the reference rows too, are made up. Replace parts of it with
`dataclasses.replace`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from cait_dist.compare.comparison import (
    Caution,
    Comparison,
    Difference,
    Efficiency,
    Group,
    PairTest,
    PaperDistance,
    PaperRow,
    RunRow,
)
from cait_dist.compare.run_data import Array, AttemptData, Curve, RunData, RunFacts, SetFacts, Total

MADE_UP = "Every number here is made up to show the page; nothing was trained."
IMAGES, BATCH, EPOCHS, BEGAN = 1_281_167, 1024, 100, 1_790_000_000.0
STEPS = IMAGES // BATCH * EPOCHS
SETTINGS: Sequence[Mapping[str, str]] = (
    {"optimizer.lr": "0.001", "model.layer_scale_init": "1e-05"},
    {"optimizer.lr": "0.0005", "model.layer_scale_init": "1e-05"},
    {"optimizer.lr": "0.001", "model.layer_scale_init": "0.1"},
)
QUALITY = (79.9, 79.75, 78.3)
SECONDS = 0.39
REFERENCE = (
    ("CaiT-XXS24", 224, True, 75.0, 12_000_000, 2_500_000_000),
    ("CaiT-XXS36", 224, True, 77.1, 17_300_000, 3_800_000_000),
    ("CaiT-XS24", 384, True, 81.0, 26_600_000, 19_300_000_000),
    ("CaiT-S24", 224, False, 80.6, 46_900_000, 9_400_000_000),
    ("CaiT-S24", 384, True, 82.2, 47_000_000, 32_200_000_000),
    ("CaiT-S36", 384, True, 83.0, 68_200_000, 48_000_000_000),
    ("CaiT-M36", 384, True, 83.9, 271_000_000, 173_000_000_000),
)


def make_curve(values: Array, steps: Array | None = None, seconds_per_step: float = SECONDS) -> Curve:
    """A curve with the given values, at steps 1, 2, … unless others are given, of a run that never stood still."""
    places = np.arange(1.0, len(values) + 1) if steps is None else steps
    return Curve(places, np.asarray(values, dtype=np.float64), BEGAN + places * seconds_per_step)


def make_run(
    name: str = "run",
    curves: Mapping[str, Curve] | None = None,
    attempts: Sequence[AttemptData] | None = None,
    facts: RunFacts | None = None,
    config: Mapping[str, object] | None = None,
) -> RunData:
    """A run with what is given, and with the facts of ImageNet, batch 1024 and one attempt on 8 devices otherwise."""
    last = max((float(c.steps[-1]) for c in (curves or {}).values() if len(c.steps)), default=float(STEPS))
    whole = AttemptData(1, BEGAN, BEGAN + SECONDS * last, 0, int(last), 8, "finished")
    return RunData(
        name=name,
        source=f"runs/{name}",
        config=config or {"optimizer.lr": 0.001},
        facts=facts or make_facts(),
        attempts=tuple(attempts or [whole]),
        curves=curves or {},
        totals={key: _total(curve) for key, curve in (curves or {}).items()},
    )


def make_facts() -> RunFacts:
    """Those of a small CaiT on ImageNet."""
    return RunFacts(
        global_batch=BATCH,
        total_steps=STEPS,
        train_images=IMAGES,
        train_digest="0" * 12,
        image_size=224,
        parameters=46_900_000,
        macs=9_400_000_000,
        device="NVIDIA H100",
        peak_flops=989e12,
        sets={"val": SetFacts("1" * 12, 50_000)},
        code={"version": "1.0", "commit": "0a1b2c3"},
    )


def make_row(run: RunData, last: Mapping[str, float] | None = None, **fields: object) -> RunRow:
    """The results of a run: the ends of its curves, the best of them, and a plausible cost."""
    ends = {key: curve.last for key, curve in run.curves.items()} if last is None else dict(last)
    best = {
        key: float((np.nanmin if "loss" in key else np.nanmax)(curve.values))
        for key, curve in run.curves.items()
        if np.isfinite(curve.values).any()
    }
    attempts = run.attempts
    wall = attempts[-1].ended - attempts[0].began
    hours = sum((a.ended - a.began) * a.processes / 3600 for a in attempts)
    filled: dict[str, object] = {
        "name": run.name,
        "outcome": attempts[-1].outcome,
        "steps": attempts[-1].last_step,
        "epochs": attempts[-1].last_step * BATCH / IMAGES,
        "last": ends,
        "best": best,
        "efficiency": Efficiency(
            images_per_second=BATCH / SECONDS,
            images_per_second_per_device=BATCH / SECONDS / attempts[-1].processes,
            mfu=0.37,
            device_hours=hours,
            wall_seconds=wall,
            cost=hours * 2.5,
            data_wait_share=0.021,
            lost_seconds=sum(a.lost_seconds for a in attempts),
            redone_steps=sum(a.redone_steps for a in attempts),
            restarts=len(attempts) - 1,
            peak_memory_gb=41.7,
            scaling=0.94,
            seconds_to_target=0.81 * wall,
            device_hours_to_target=0.81 * hours,
        ),
        "paper": PaperDistance(None, None, ()),
    }
    return RunRow(**{**filled, **fields})  # type: ignore[arg-type]


def make_comparison(settings: int = 3, seeds: int = 3, points: int = 2000, evaluations: int = 50) -> Comparison:
    """Settings × seeds: each run has 9 curves with ``points`` and 6 of evaluations; the best comes first."""
    runs, groups = [], []
    for number in range(settings):
        chosen = SETTINGS[number % len(SETTINGS)]
        members = [_lifelike_run(number, seed, chosen, points, evaluations) for seed in range(seeds)]
        runs += members
        groups.append(_group(number, chosen, members))
    rows = [make_row(run, paper=_paper_distance(run)) for run in runs]
    return comparison_of(
        runs,
        rows,
        groups=tuple(groups),
        baseline=groups[-1].label,
        tests=tuple(_test(a, b) for a, b in [*((group, groups[-1]) for group in groups[:-1]), *_first_two(groups)]),
        differences=_differences(runs),
        cautions=_cautions(runs),
        paper=tuple(PaperRow(*row, source="made up, not from the paper") for row in REFERENCE),
        verdict=_verdict(groups),
        target=77.0,
        notes=(MADE_UP,),
    )


def comparison_of(runs: Sequence[RunData], rows: Sequence[RunRow] | None = None, **fields: object) -> Comparison:
    """A comparison of the given runs that tells nothing but what is given besides."""
    filled: dict[str, object] = {
        "runs": tuple(runs),
        "rows": tuple([make_row(run) for run in runs] if rows is None else rows),
        "metric": "val/top1",
        "higher_is_better": True,
        "baseline": "",
        "differences": (),
        "groups": (),
        "tests": (),
        "cautions": (),
        "paper": (),
        "verdict": "Nothing can be said.",
    }
    return Comparison(**{**filled, **fields})  # type: ignore[arg-type]


def long_comparison(runs: int = 20, points: int = 10_000, metrics: int = 15) -> Comparison:
    """Runs of noise, every metric with all its points: the largest page one is likely to make."""
    keys = ["val/top1", "val_ema/top1", "train/loss", "train/lr", "train/grad_norm", "perf/images_per_second"]
    keys = (keys + [f"health/number_{n}" for n in range(metrics)])[:metrics]
    made = []
    for number in range(runs):
        noise = np.random.default_rng(number)
        curves = {key: make_curve(70 + noise.normal(size=points).cumsum() / 50) for key in keys}
        made.append(make_run(f"run-{number:02d}", curves))
    groups = []
    for label, members in (("optimizer.lr=0.001", made[: runs // 2]), ("optimizer.lr=0.0005", made[runs // 2 :])):
        ends = tuple(run.curves["val/top1"].last for run in members)
        names, spread = tuple(run.name for run in members), statistics.stdev(ends) if len(ends) > 1 else None
        groups.append(Group(label, {}, names, tuple(range(len(ends))), ends, statistics.fmean(ends), spread))
    return comparison_of(made, groups=tuple(groups), baseline=groups[1].label, verdict="It is all noise.")


def _lifelike_run(setting: int, seed: int, chosen: Mapping[str, str], points: int, evaluations: int) -> RunData:
    attempts = _attempts(setting, seed)
    last = attempts[-1].last_step
    noise = np.random.default_rng([setting, seed])
    dense = np.unique(np.linspace(1, last, points).round())
    sparse = np.unique(np.linspace(STEPS / evaluations, last, max(1, round(evaluations * last / STEPS))).round())
    quality = QUALITY[setting % len(QUALITY)] + noise.normal() * 0.25
    values = {**_training_values(dense, setting, noise), **_evaluation_values(sparse, quality, noise)}
    curves = {}
    for key, (steps, numbers) in values.items():
        curves[key] = Curve(steps, numbers, _times(steps, attempts))
    config = {**chosen, "seed": seed, "training.global_batch": BATCH, "data.workers": 8 if seed else 12}
    return make_run(f"s24-{'abcdefgh'[setting % 8]}-seed{seed}", curves, attempts, config=config)


def _attempts(setting: int, seed: int) -> list[AttemptData]:
    """Most runs went through; seed 1 was begun twice, and the last of the slow ones on fewer devices was lost."""
    if seed != 1:
        return [AttemptData(1, BEGAN, BEGAN + SECONDS * STEPS, 0, STEPS, 8, "finished")]
    half, redone, pause = int(STEPS * (0.4 + 0.1 * setting)), 900, 5400.0
    middle = BEGAN + SECONDS * half
    again = middle + pause
    end = again + SECONDS * (STEPS - half + redone)
    return [
        AttemptData(1, BEGAN, middle, 0, half, 8, "lost", lost_seconds=redone * SECONDS, redone_steps=0),
        AttemptData(2, again, end, half - redone, STEPS, 8, "finished", redone_steps=redone, lost_seconds=0.0),
    ]


def _times(steps: Array, attempts: Sequence[AttemptData]) -> Array:
    times = np.zeros(len(steps))
    for attempt in attempts:
        here = steps > attempt.first_step
        times[here] = attempt.began + (steps[here] - attempt.first_step) * SECONDS
    return times


def _training_values(steps: Array, setting: int, noise: np.random.Generator) -> dict[str, tuple[Array, Array]]:
    done, n = steps / STEPS, len(steps)
    peak = (1e-3, 5e-4, 1e-3)[setting % 3]
    lr = np.where(done < 0.05, peak * done / 0.05, 1e-5 + (peak - 1e-5) * (1 + np.cos(np.pi * done)) / 2)
    loss = 2.55 + 0.06 * (setting % 3) + 4.2 * np.exp(-14 * done) + 0.75 * (1 - done) + noise.normal(size=n) * 0.11
    norm = 1.1 + 3.5 * np.exp(-25 * done) + 0.5 * done + np.abs(noise.normal(size=n)) * 0.25
    norm[noise.integers(n, size=min(4, n))] *= 3
    speed = BATCH / SECONDS * (1 - 0.25 * noise.pareto(6, n).clip(0, 3)) + noise.normal(size=n) * 12
    wait = (0.012 + 0.012 * noise.pareto(3, n)).clip(0, 0.9)
    logit = 4 + 9 * (1 - np.exp(-4 * done)) * (1 + 0.15 * (setting % 3)) + noise.normal(size=n) * 0.3
    values = {
        "train/loss": loss,
        "train/lr": lr,
        "train/grad_norm": norm,
        "health/max_attention_logit": logit,
        "health/parameter_norm": 190 + 60 * np.sqrt(done) + noise.normal(size=n) * 0.2,
        "health/layerscale_mean": (0.1 if setting == 2 else 1e-5) + 0.12 * (1 - np.exp(-5 * done)),
        "perf/images_per_second": speed,
        "perf/data_wait_share": wait,
        "perf/peak_memory_gb": np.full(n, 41.7),
    }
    return {key: (steps, numbers) for key, numbers in values.items()}


def _evaluation_values(steps: Array, quality: float, noise: np.random.Generator) -> dict[str, tuple[Array, Array]]:
    done = steps / STEPS
    top1 = quality - 62 * np.exp(-9 * done) - 6 * (1 - done) ** 2
    top1 += noise.normal(size=len(done)) * 0.5 * (1 - done)
    ema = quality + 0.1 - 66 * np.exp(-8 * done) - 3.5 * (1 - done) ** 2
    values = {}
    for name, numbers in (("val", top1.clip(0.1, 99)), ("val_ema", ema.clip(0.1, 99))):
        values[f"{name}/top1"] = numbers
        values[f"{name}/top5"] = 100 - (100 - numbers) * 0.27
        values[f"{name}/loss"] = 0.25 + (100 - numbers) * 0.031
    return {key: (steps, numbers) for key, numbers in values.items()}


def _group(number: int, chosen: Mapping[str, str], members: Sequence[RunData]) -> Group:
    ends = tuple(run.curves["val/top1"].last for run in members)
    label = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in chosen.items())
    label = label if number < len(SETTINGS) else f"{label} ({number})"
    names, spread = tuple(run.name for run in members), statistics.stdev(ends) if len(ends) > 1 else None
    return Group(label, chosen, names, tuple(range(len(ends))), ends, statistics.fmean(ends), spread)


def _first_two(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    return [(groups[0], groups[1])] if len(groups) > 2 else []


def _test(a: Group, b: Group) -> PairTest:
    difference = a.mean - b.mean
    half = 2.776 * math.sqrt(((a.spread or 0.2) ** 2 + (b.spread or 0.2) ** 2) / max(1, len(a.values)))
    significant = abs(difference) > half
    sentence = (
        f"{a.label} is {abs(difference):.2f} points above {b.label}, and the difference is significant."
        if significant
        else f"Whether {a.label} is better than {b.label} cannot be told: the difference is not significant."
    )
    low, high = difference - half, difference + half
    p = 0.003 if significant else 0.21
    return PairTest(a.label, b.label, "Welch t over seeds", difference, low, high, p, significant, sentence)


def _paper_distance(run: RunData) -> PaperDistance:
    row = PaperRow(*REFERENCE[3], source="made up, not from the paper")
    if run.name.endswith("seed0"):
        return PaperDistance(row, run.curves["val/top1"].last - row.top1, ())
    return PaperDistance(row, None, ("100 epochs instead of 400", "no distillation"))


def _differences(runs: Sequence[RunData]) -> tuple[Difference, ...]:
    keys = [key for key in runs[0].config if len({str(run.config[key]) for run in runs}) > 1]
    found = [
        Difference("config", key, tuple(str(run.config[key]) for run in runs), key not in ("data.workers",))
        for key in keys
    ]
    texts = tuple("0a1b2c3" if n % 2 else "0a1b2c3-dirty" for n in range(len(runs)))
    hosts = tuple(f"node{n % 3:02d}" for n in range(len(runs)))
    return (*found, Difference("code", "commit", texts, False), Difference("environment", "host", hosts, False))


def _cautions(runs: Sequence[RunData]) -> tuple[Caution, ...]:
    names = tuple(run.name for run in runs)
    return (
        Caution("made-up", MADE_UP, names),
        Caution(
            "best-of-many",
            "“Best” is chosen among 50 evaluations by looking at the set itself: new images would give less.",
            names,
        ),
        Caution("code", f"{names[0]} was trained from a tree with uncommitted changes.", names[:1]),
    )


def _verdict(groups: Sequence[Group]) -> str:
    first = groups[0]
    spread = f" ± {first.spread:.2f}" if first.spread is not None else ""
    return f"{first.label} is best: {first.mean:.2f}{spread} % top-1 over {len(first.runs)} seeds."


def _total(curve: Curve) -> Total:
    finite = curve.values[np.isfinite(curve.values)]
    if not len(finite):
        return Total(len(curve.values), math.nan, math.nan, math.nan, math.nan, len(curve.values))
    bad = len(curve.values) - len(finite)
    ends = float(finite.min()), float(finite.max())
    return Total(len(curve.values), float(finite.mean()), float(np.median(finite)), *ends, bad)
