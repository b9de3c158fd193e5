"""The metrics file: what was written is read back, once per step, whatever happened to the writer."""

import json
import math
from pathlib import Path

from cait_dist.tracking.metrics import MetricsWriter, attempt_metrics, read_metrics, recent_metrics, series
from cait_dist.tracking.run_directory import RunDirectory


def attempt(run: RunDirectory, number: int, begin: int, steps: range, value: float) -> None:
    run.attempt(number).mkdir(parents=True)
    writer = MetricsWriter(run.attempt(number), begin)
    for step in steps:
        writer.append(step, 1000.0 + step, {"train/loss": value})
    writer.close()


def test_a_resumed_run_has_one_value_per_step_and_the_later_attempt_wins(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    attempt(run, 1, 0, range(1, 138), 1.0)
    attempt(run, 2, 100, range(101, 151), 2.0)
    values = series(read_metrics(run), "train/loss")
    assert [step for step, _ in values] == list(range(1, 151))
    assert {value for step, value in values if step > 100} == {2.0}


def test_an_attempt_that_wrote_nothing_still_takes_back_what_it_will_do_again(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    attempt(run, 1, 0, range(1, 21), 1.0)
    attempt(run, 2, 10, range(0), 2.0)
    assert [row["step"] for row in read_metrics(run)] == list(range(1, 11))


def test_an_attempt_that_goes_back_by_itself_has_one_value_per_step(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    attempt(run, 1, 0, range(1, 11), 1.0)
    run.attempt(2).mkdir()
    writer = MetricsWriter(run.attempt(2), 10)
    for begin, value in ((10, 2.0), (15, 3.0), (5, 4.0)):
        if begin != 10:
            writer.go_back(begin)
        for step in range(begin + 1, begin + 10):
            writer.append(step, 1000.0, {"train/loss": value})
    writer.close()
    expected = [*((step, 1.0) for step in range(1, 6)), *((step, 4.0) for step in range(6, 15))]
    assert series(read_metrics(run), "train/loss") == expected
    assert series(attempt_metrics(run.attempt(2)), "train/loss") == expected[5:]
    assert series(recent_metrics(run.attempt(2)), "train/loss") == expected[5:]


def test_a_line_torn_by_a_crash_is_left_out(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    attempt(run, 1, 0, range(1, 4), 1.0)
    with (run.attempt(1) / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "train/lo')
    assert [row["step"] for row in read_metrics(run)] == [1, 2, 3]


def test_the_last_lines_are_read_without_the_first(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    attempt(run, 1, 0, range(1, 500), 1.0)
    with (run.attempt(1) / "metrics.jsonl").open("a") as file:
        file.write('{"step": 500, "train/lo')
    recent = recent_metrics(run.attempt(1), max_bytes=1000)
    assert [row["step"] for row in recent] == list(range(500 - len(recent), 500))
    assert 10 < len(recent) < 30
    assert recent_metrics(run.attempt(1)) == read_metrics(run)
    assert recent_metrics(run.attempt(2)) == []


def test_attempt_ten_comes_after_attempt_nine(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for number in range(1, 12):
        attempt(run, number, number - 1, range(number, number + 3), float(number))
    assert series(read_metrics(run), "train/loss")[-1] == (13, 11.0)


def test_non_finite_values_keep_the_file_plain_json_and_come_back(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    attempt(run, 1, 0, range(1, 2), math.nan)
    lines = (run.attempt(1) / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[1], parse_constant=refuse)["train/loss"] == "nan"
    assert math.isnan(series(read_metrics(run), "train/loss")[0][1])


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")
