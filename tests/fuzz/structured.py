"""Structured fuzzing with hypothesis: `python tests/fuzz/structured.py TARGET SECONDS REPRODUCER`.

A process of its own, so that its memory can be limited, and so that a hang ends it. It prints what it did as JSON.
Where it fails, the file REPRODUCER holds the case, for `coverage_guided.py TARGET --replay REPRODUCER`.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from corpus import seeds
from hypothesis import HealthCheck, Phase, given, seed, settings
from mutations import mutated
from oracle import Watch, workplace
from targets import TARGETS

ROUND = 100
"""Examples; hypothesis itself knows no end by time."""


def main(name: str, seconds: float, reproducer: Path) -> None:
    """Try cases until the time is up.

    Args:
        name: of the target
        seconds: to spend
        reproducer: file that always holds the case being tried
    """
    place = workplace(name)
    try:
        print(json.dumps(_fuzz(name, seconds, place, reproducer)))
    finally:
        shutil.rmtree(place)


def _fuzz(name: str, seconds: float, place: Path, reproducer: Path) -> dict[str, object]:
    target, scratch = TARGETS[name], place / "scratch"
    (place / "seeds").mkdir()
    begin_with = seeds(name, place / "seeds")
    watch = Watch(scratch, reproducer)
    counts = {"tried": 0, "accepted": 0}

    def try_case(case: bytes) -> list[bool]:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        found = watch.judge(case, target.of(case, scratch))
        counts["tried"], counts["accepted"] = counts["tried"] + 1, counts["accepted"] + any(found)
        return found

    def test(case: bytes) -> None:
        try_case(case)

    # This also imports what is imported late.
    known = [any(each) for each in zip(*map(try_case, begin_with), strict=True)]
    watch.limit_memory()
    began, rounds = time.monotonic(), 0
    bounded = settings(
        max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip
    while time.monotonic() - began < seconds:
        rounds += 1
        seed(rounds)(bounded(given(mutated(begin_with, target.files))(test)))()
    return {"known": known, **counts, "seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
