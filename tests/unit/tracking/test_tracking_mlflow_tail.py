"""The metrics are read in batches from any cursor, each value once, and as `read_metrics` counts them."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

from cait_dist.tracking.metrics import read_metrics
from cait_dist.tracking.metrics_tail import Cursor, MetricsTail
from cait_dist.tracking.run_directory import RunDirectory

FOREVER = float("inf")


def write(run: RunDirectory, number: int, begin: int, rows: list[dict[str, Any]]) -> Path:
    run.attempt(number).mkdir(parents=True)
    file = run.attempt(number) / "metrics.jsonl"
    lines = [{"resumed_from": begin}, *({"time": 1.0, **row} if "step" in row else row for row in rows)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def steps(first: int, last: int, value: float) -> list[dict[str, Any]]:
    return [{"step": step, "loss": value} for step in range(first, last + 1)]


def back(step: int) -> dict[str, Any]:
    return {"resumed_from": step}


def read_all(run: RunDirectory, cursor: Cursor, durable: float, most: int = 3) -> tuple[list[dict[str, Any]], Cursor]:
    """As a process would that dies after each batch: the cursor goes through a file, the reader is a new one."""
    rows = []
    while batch := MetricsTail(run).read(cursor, durable, most):
        assert len(batch.rows) <= most
        rows += batch.rows
        cursor = Cursor.of(json.loads(json.dumps(batch.cursor.facts())))
    return rows, cursor


def test_batches_of_three_attempts_are_what_read_metrics_counts(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    write(run, 1, 0, steps(1, 37, 1.0))
    write(run, 2, 30, [{"step": 30, "top1": 3.0}, *steps(31, 55, 2.0)])
    write(run, 3, 50, steps(51, 60, 3.0))
    assert read_all(run, Cursor(), FOREVER)[0] == read_metrics(run)


def test_an_attempt_that_its_successors_went_back_behind_counts_up_to_the_earliest(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    write(run, 1, 0, steps(1, 30, 1.0))
    write(run, 2, 30, steps(31, 40, 2.0))
    write(run, 3, 10, steps(11, 20, 3.0))
    assert read_all(run, Cursor(), FOREVER)[0] == read_metrics(run)


def test_an_attempt_that_goes_back_by_itself_is_what_read_metrics_counts(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    write(run, 1, 0, steps(1, 12, 1.0))
    write(run, 2, 10, [*steps(11, 25, 2.0), back(20), *steps(21, 26, 3.0), back(15), *steps(16, 30, 4.0)])
    assert read_all(run, Cursor(), FOREVER)[0] == read_metrics(run)


def test_steps_that_were_waiting_when_an_attempt_went_back_are_never_handed_out(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    file = write(run, 1, 0, steps(1, 25, 1.0))
    tail = MetricsTail(run)
    first = tail.read(Cursor(), 20, 10**6)
    assert first is not None
    with file.open("a") as lines:
        lines.writelines(json.dumps({"time": 1.0, **row} if "step" in row else row) + "\n"
                         for row in (back(20), *steps(21, 40, 2.0)))  # fmt: skip
    second = tail.read(first.cursor, 30, 10**6)
    assert second is not None
    assert [(row["step"], row["loss"]) for row in second.rows] == [(step, 2.0) for step in range(21, 31)]


def test_steps_beyond_the_checkpoint_wait_for_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    write(run, 1, 0, steps(1, 37, 1.0))
    rows, cursor = read_all(run, Cursor(), 10)
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert read_all(run, cursor, 10)[0] == []
    assert [row["step"] for row in read_all(run, cursor, 20)[0]] == list(range(11, 21))
    # The attempt died, and the next went on from a checkpoint that nobody had told of.
    write(run, 2, 30, steps(31, 40, 2.0))
    assert [row["step"] for row in read_all(run, cursor, -1)[0]] == list(range(11, 31))


def test_a_value_that_was_handed_out_is_final(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    evaluation = {"step": 25, "top1": 5.0}
    write(run, 1, 0, [*steps(1, 25, 1.0), evaluation, *steps(26, 40, 1.0)])
    _, cursor = read_all(run, Cursor(), 40)
    write(run, 2, 20, [*steps(21, 25, 2.0), evaluation, *steps(26, 60, 2.0)])
    rows, _ = read_all(run, cursor, FOREVER)
    assert [row["step"] for row in rows] == list(range(41, 61))


def test_an_evaluation_that_follows_its_step_in_a_later_batch_or_attempt_is_new_once(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    write(run, 1, 0, [*steps(1, 10, 1.0), {"step": 10, "top1": 5.0}, {"step": 10, "ema": 6.0}])
    rows, cursor = read_all(run, Cursor(), 10, most=1)
    assert rows[-3:] == [
        {"step": 10, "time": 1.0, key: value} for key, value in (("loss", 1.0), ("top1", 5.0), ("ema", 6.0))
    ]
    write(run, 2, 10, [{"step": 10, "top1": 5.0, "late": 7.0}, *steps(11, 12, 2.0)])
    rows, _ = read_all(run, cursor, FOREVER)
    assert rows[0] == {"step": 10, "time": 1.0, "late": 7.0}
    assert [row["step"] for row in rows] == [10, 11, 12]


def test_a_torn_line_waits_for_its_end_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    file = write(run, 1, 0, steps(1, 3, 1.0))
    with file.open("a") as more:
        more.write('{"step": 4, "ti')
    rows, cursor = read_all(run, Cursor(), FOREVER)
    assert [row["step"] for row in rows] == [1, 2, 3]
    with file.open("a") as more:
        more.write('me": 1.0, "loss": 1.0}\n\0\0garbage\n"text"\n{"step": 5, "time": 1.0, "loss": 1.0}\n')
    assert [row["step"] for row in read_all(run, cursor, FOREVER)[0]] == [4, 5]
    write(run, 2, 5, steps(6, 6, 2.0))
    assert [row["step"] for row in read_all(run, Cursor(), FOREVER)[0]] == [1, 2, 3, 4, 5, 6]


def test_an_attempt_without_a_first_line_has_not_begun(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    write(run, 1, 0, steps(1, 3, 1.0))
    run.attempt(2).mkdir()
    assert MetricsTail(run).newest == 1
    (run.attempt(2) / "metrics.jsonl").write_text('{"resumed')
    assert [row["step"] for row in read_all(run, Cursor(), 3)[0]] == [1, 2, 3]


def test_a_long_backlog_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    file = write(run, 1, 0, steps(1, 20_000, 1.0))
    tail, cursor, count = MetricsTail(run), Cursor(), 0
    tracemalloc.start()
    while batch := tail.read(cursor, FOREVER, 100):
        cursor, count = batch.cursor, count + len(batch.rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < file.stat().st_size / 8
    assert tail.read_bytes(cursor) == tail.size()
