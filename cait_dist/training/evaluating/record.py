"""What was measured on checkpoints, apart from training: ``runs/NAME/evaluations/step-00001234.json``.

A file belongs to one checkpoint, whose digest it names, and holds a result for each set and kind of weights. A result
says how it was obtained; the same is not measured twice, and what was measured on another checkpoint of the same step,
on other images or in another view of them counts for nothing. What was said about each image lies beside it, in
``step-00001234/SET-WEIGHTS.npz``.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cait_dist.evaluation import Accuracy, Answers
from cait_dist.tracking.run_directory import read_json

from ..saving.checkpoint_files import Checkpoint

EVALUATIONS = "evaluations"


@dataclass(frozen=True)
class Question:
    """What decides a result, besides the checkpoint.

    Attributes:
        set: name of the set.
        weights: ``raw`` or ``ema``.
        data: digest of the images and of what is right about them.
        image_size: in pixels.
        crop_ratio: centre crop over short side.
        precision: of the matrix products.
    """

    set: str
    weights: str
    data: str
    image_size: int
    crop_ratio: float
    precision: str


@dataclass(frozen=True)
class Result:
    """A question and its answer.

    Attributes:
        question: what was asked.
        accuracy: the answer.
        code: version of the code that measured.
        time: when, in UTC.
    """

    question: Question
    accuracy: Accuracy
    code: Mapping[str, str]
    time: str


def record_path(run_dir: Path, step: int) -> Path:
    """Where the results of a step lie."""
    return run_dir / EVALUATIONS / f"step-{step:08d}.json"


def read_results(run_dir: Path, checkpoint: Checkpoint) -> dict[Question, Result]:
    """What is known of a checkpoint."""
    content = read_json(record_path(run_dir, checkpoint.step)) or {}
    if content.get("checkpoint") != checkpoint.digest:
        return {}
    found = (_result_of(entry) for entry in content["results"])
    return {result.question: result for result in found}


def add_result(run_dir: Path, checkpoint: Checkpoint, result: Result) -> None:
    """Keep a result beside those that are there by now."""
    results = read_results(run_dir, checkpoint) | {result.question: result}
    path = record_path(run_dir, checkpoint.step)
    path.parent.mkdir(exist_ok=True)
    entries = [_entry_of(kept) for kept in results.values()]
    _replace(path, {"step": checkpoint.step, "checkpoint": checkpoint.digest, "results": entries})


def save_answers(run_dir: Path, checkpoint: Checkpoint, question: Question, answers: Answers) -> None:
    """Keep what was said about each image, in place of what was said when it was asked for in another view."""
    view = {key: value for key, value in asdict(question).items() if key in ("image_size", "crop_ratio", "precision")}
    path = answers_path(run_dir, checkpoint.step, question)
    answers.save(path, checkpoint.step, question.data, {**view, "checkpoint": checkpoint.digest})


def answers_path(run_dir: Path, step: int, question: Question) -> Path:
    """Where the answers about each image lie."""
    return run_dir / EVALUATIONS / f"step-{step:08d}" / f"{question.set}-{question.weights}.npz"


def _entry_of(result: Result) -> dict[str, Any]:
    return asdict(result.question) | asdict(result.accuracy) | {"code": dict(result.code), "time": result.time}


def _result_of(entry: dict[str, Any]) -> Result:
    question = Question(**_pick(entry, Question.__dataclass_fields__))
    accuracy = Accuracy(**_pick(entry, Accuracy.__dataclass_fields__))
    return Result(question, accuracy, entry["code"], entry["time"])


def _pick(entry: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    # What is not there was not yet known when it was written, and has a default.
    return {key: entry[key] for key in keys if key in entry}


def _replace(path: Path, content: dict[str, Any]) -> None:
    # Under a name of its own: a job and a user may be evaluating the same run.
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(aside).unlink()
        raise
