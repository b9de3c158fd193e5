"""Does a teacher help a student that has few images of its own? The same student with and without one, over seeds.

    python benchmarks/distillation.py                            all: data, teacher, 5 seeds × 3 kinds; half an hour
    python benchmarks/distillation.py --seeds 0 1 --kinds none soft

The student (configs/distilled/digits.yaml) is shown ten images of each digit; the teacher (configs/digits.yaml) has
learnt from all 1,438. They see the same augmented images, and both are measured on the 359 that neither has seen. What
is trained already is not trained again, so that an interrupted call goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cait_dist.tracking.code_version import describe_code
from cait_dist.tracking.metrics import read_metrics, series
from cait_dist.tracking.run_directory import RunDirectory
from data_prep.digits import DigitsSource
from parts.circumstances import processor

ROOT = Path(__file__).resolve().parents[1]
CAIT = (sys.executable, "-c", "from cait_dist.cli import main; main()")
PER_CLASS, SIZE = 10, 24
KINDS = {
    "none": ("distillation.teacher=null",),
    "soft": (),
    "hard": ("distillation.alpha=0.5", "distillation.temperature=1"),
}
"""Beside ``distillation.kind``; soft is the configuration's own."""


def main() -> None:
    """Train what is missing, tell what each student reached."""
    options = _options()
    place: Path = options.folder.absolute()
    place.mkdir(parents=True, exist_ok=True)
    _prepare(place)
    teacher = _train(place, "configs/digits.yaml", "teacher", f"data.path={place / 'all'}")
    print(f"teacher: {teacher:.2f} % top-1", flush=True)
    top1 = {kind: [_student(place, kind, seed) for seed in options.seeds] for kind in options.kinds}
    record = _record(options, teacher, top1)
    print(_table(record["students"]))
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


def _prepare(place: Path) -> None:
    """All digits, and a folder with some of each class and the same images to measure on."""
    _cait("prep", "digits", "--out", str(place / "all"), "--image-size", str(SIZE))
    if not (place / "few").exists():
        _write_few(place / "images")
        _cait("prep", str(place / "images"), "--out", str(place / "few"))


def _write_few(folder: Path) -> None:
    source = DigitsSource(SIZE)
    for name, split in source.splits.items():
        written: dict[int, int] = {}
        for image, label in zip(split.names, split.labels.tolist(), strict=True):
            written[label] = written.get(label, 0) + 1
            if name == "val" or written[label] <= PER_CLASS:
                path = folder / name / str(label) / f"{image.rpartition('/')[2]}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(source.read(image))


def _student(place: Path, kind: str, seed: int) -> float:
    settings = [f"distillation.kind={kind}", f"distillation.teacher={place / 'runs' / 'teacher'}", *KINDS[kind]]
    name = f"student-{kind}-{seed}"
    top1 = _train(place, "configs/distilled/digits.yaml", name, f"data.path={place / 'few'}", f"seed={seed}", *settings)
    print(f"{name}: {top1:.2f} %", flush=True)
    return top1


def _train(place: Path, config: str, name: str, *settings: str) -> float:
    """Top-1 of the raw weights at the end."""
    where = (f"name={name}", f"runs_dir={place / 'runs'}", "tracking.mlflow=false")
    _cait("train", str(ROOT / config), *where, *settings, "--processes", "1")
    return series(read_metrics(RunDirectory(place / "runs" / name)), "val/top1")[-1][1]


def _cait(*words: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*CAIT, *words], env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip() or f"cait {shlex.join(words)} ended with status {done.returncode}")


def _record(options: argparse.Namespace, teacher: float, top1: dict[str, list[float]]) -> dict[str, Any]:
    base = top1.get("none")
    students = {}
    for kind, values in top1.items():
        students[kind] = {"top1": values, "mean": statistics.mean(values), "deviation": _deviation(values)}
        if base is not None and kind != "none":
            gains = [value - other for value, other in zip(values, base, strict=True)]
            students[kind] |= {"gain": statistics.mean(gains), "gain_deviation": _deviation(gains)}
    return {
        "command": shlex.join(["python", "benchmarks/distillation.py", *sys.argv[1:]]),
        **describe_code(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "hardware": processor(),
        "images_per_class": PER_CLASS,
        "seeds": options.seeds,
        "teacher": teacher,
        "students": students,
    }


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _table(students: dict[str, dict[str, Any]]) -> str:
    lines = ["kind   top-1, mean ± deviation   gain over the same seed without a teacher"]
    for kind, found in students.items():
        gain = f"{found['gain']:+.2f} ± {found['gain_deviation']:.2f}" if "gain" in found else "–"
        lines.append(f"{kind:6} {found['mean']:.2f} ± {found['deviation']:.2f} %          {gain}")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)), help="of the students")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="of distillation")
    parser.add_argument("--folder", type=Path, default=Path("data/distillation"), help="for data and runs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the results there, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
