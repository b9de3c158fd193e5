"""Short trainings of deep narrow networks on digits, a run directory each; what is over is not done again."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cait_dist.config import load_config
from cait_dist.data.reader_webdataset import open_split
from cait_dist.models.branches import RESIDUALS
from cait_dist.tracking.metrics import read_metrics, series
from cait_dist.tracking.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs/ablations/table1_stabilisation"
VARIANTS = (*(name for name, branch in RESIDUALS.items() if not branch.norm), "pre_norm", "rezero_adapted",
            "fixup_adapted", "t_fixup_adapted", "scalar", "layer_scale")  # fmt: skip
SETTINGS: dict[str, tuple[str, ...]] = {
    "recipe": (),
    "harsh": ("optimizer.lr=3e-2", "optimizer.clip_grad=null"),
}
"""Beside that of the configuration: ten times its learning rate, and nothing that holds a large gradient back."""
LAST_STEPS, MIDDLE, NEAR_CHANCE, EVERY = 20, 50, 0.05, 5
RULE = (
    f"`diverges`: a loss was not finite, or the end lies more than {100 * NEAR_CHANCE:.0f} % above chance;"
    f" `stalls`: it lies within {100 * NEAR_CHANCE:.0f} % of chance; `trains`: below"
)
# MLflow, health and evaluations on the way would cost time and change no weight.
_QUIET = (
    "tracking.mlflow=false", "tracking.system_seconds=0", "training.log_every=1", "training.health_every=null",
    "evaluation.every_epochs=1000", "training.checkpoint.every_epochs=1000",
)  # fmt: skip


class StabilityError(ValueError):
    """Something is missing; the message says what to do."""


@dataclass(frozen=True)
class Member:
    """One training."""

    setting: str
    depth: int
    residual: str
    seed: int

    def __str__(self) -> str:
        return f"{self.setting}, depth {self.depth}, {self.residual}, seed {self.seed}"

    @property
    def config(self) -> Path:
        """Those without a norm have no warm-up either, as they were published."""
        own = not RESIDUALS[self.residual].norm
        return CONFIGS / ("digits_own_form.yaml" if own else "digits.yaml")


@dataclass(frozen=True)
class Place:
    """Where the runs are, and what is the same in all of them."""

    runs: Path
    data: Path
    steps: int

    def run(self, member: Member) -> RunDirectory:
        """Directory of a member; other numbers of steps are other trainings."""
        folder = self.runs / f"{member.setting}-{self.steps}_steps"
        return RunDirectory(folder / f"{member.residual}-depth_{member.depth}-seed_{member.seed}")

    def overrides(self, member: Member, samples: int, batch: int) -> list[str]:
        """Settings that make a member of the configuration."""
        return [
            f"data.path={self.data}",
            f"model.residual={member.residual}",
            f"model.depth={member.depth}",
            f"seed={member.seed}",
            # Half a step less: the last one is rounded up, and must not be by an error of the last digit.
            f"training.epochs={(self.steps - 0.5) * batch / samples:.6g}",
            *_QUIET,
            *SETTINGS[member.setting],
        ]


def train(member: Member, place: Place) -> None:
    """`cait train`, unless it is over; a training that was interrupted goes on.

    Raises:
        StabilityError: if it ends in another way than by doing its steps or by diverging
        KeyboardInterrupt: once the training has saved
    """
    if is_over(member, place):
        return
    run = place.run(member)
    run.path.parent.mkdir(parents=True, exist_ok=True)
    log = run.path.with_name(f"{run.path.name}.log")
    batch = load_config(member.config).config.training.global_batch
    words = ["train", str(member.config), "--processes", "1", "--run-dir", str(run.path)]
    words += place.overrides(member, _train_split(place).num_samples, batch)
    # Layers this narrow gain little from a second thread, and lose a lot to it where others want the core.
    with log.open("a") as file:
        child = subprocess.Popen(
            [sys.executable, "-c", "from cait_dist.cli import main; main()", *words],
            stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            child.wait()
        except KeyboardInterrupt:
            child.wait()  # Ctrl-C reached it as well: it saves
            raise
    if not is_over(member, place):
        raise StabilityError(f"{member} ended too early: see {log}")


def is_over(member: Member, place: Place) -> bool:
    """Whether all steps are done, or the loss is no number any more."""
    rows = _losses(member, place)
    return bool(rows) and (not math.isfinite(rows[-1][1]) or _top1(member, place) is not None)


def read(member: Member, place: Place, chance: float) -> dict[str, Any]:
    """What a training that is over did.

    Args:
        member: of them
        place: of the runs
        chance: loss of a model that knows the frequencies of the classes and nothing else

    Returns:
        a row of the table: the loss of the first step, before any update; its mean over the ten steps up to step 50,
        and over the last 20; top-1 on val; the curve, as means of five steps
    """
    losses = [loss for _, loss in _losses(member, place)]
    end = float(np.mean(losses[-LAST_STEPS:]))
    rows = read_metrics(place.run(member))
    return {
        "setting": member.setting,
        "depth": member.depth,
        "residual": member.residual,
        "seed": member.seed,
        "steps": len(losses),
        "loss_start": _rounded(losses[0]),
        "loss_step_50": _rounded(float(np.mean(losses[MIDDLE - 10 : MIDDLE]))) if len(losses) >= MIDDLE else None,
        "loss_end": _rounded(end),
        "top1": _rounded(_top1(member, place), 2),
        "verdict": verdict(losses, chance),
        "seconds": _rounded(max(value for _, value in series(rows, "perf/trained_seconds")), 1),
        "curve": [_rounded(float(np.mean(losses[at : at + EVERY]))) for at in range(0, len(losses), EVERY)],
    }


def verdict(losses: Sequence[float], chance: float) -> str:
    """By `RULE`, from the loss of every step."""
    end = float(np.mean(losses[-LAST_STEPS:]))
    if not all(map(math.isfinite, losses)) or end > (1 + NEAR_CHANCE) * chance:
        return "diverges"
    return "stalls" if end >= (1 - NEAR_CHANCE) * chance else "trains"


def chance_loss(place: Place) -> float:
    """Cross-entropy, in nats, of always predicting the frequencies of the smoothed training labels.

    Raises:
        StabilityError: if there are no digits
    """
    reader = _train_split(place)
    smoothing = load_config(CONFIGS / "digits.yaml").config.augment.label_smoothing
    counts = np.bincount(np.asarray(reader.labels), minlength=reader.num_classes)
    frequencies = (1 - smoothing) * counts / counts.sum() + smoothing / reader.num_classes
    return float(-(frequencies * np.log(frequencies)).sum())


def code_of(wanted: Iterable[Member], place: Place) -> list[str]:
    """Commits that the trainings were made with."""
    attempts = [a for member in wanted for a in place.run(member).read_record()["attempts"]]
    return sorted({attempt["code"].get("commit", "unknown") for attempt in attempts})


def members(
    settings: Sequence[str], depths: Sequence[int], variants: Sequence[str], seeds: Sequence[int]
) -> Iterator[Member]:
    """All combinations, in the order of the table."""
    yield from (Member(s, d, v, seed) for s in settings for d in depths for v in variants for seed in seeds)


def _train_split(place: Place) -> Any:
    try:
        return open_split(place.data, "train")
    except ValueError as error:
        raise StabilityError(f"{error}\n  cait prep digits --out {place.data} --image-size 24") from None


def _losses(member: Member, place: Place) -> list[tuple[int, float]]:
    return series(read_metrics(place.run(member)), "train/loss")


def _top1(member: Member, place: Place) -> float | None:
    measured = [value for step, value in series(read_metrics(place.run(member)), "val/top1") if step >= place.steps]
    return measured[-1] if measured else None


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)
