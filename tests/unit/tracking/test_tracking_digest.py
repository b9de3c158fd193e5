"""The short form of a metrics file says the same as its lines, as far as a picture and a comparison need them."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from cait_dist.tracking.digest import (
    COUNT,
    DIGEST_FILE,
    FIRST,
    HIGH,
    HIGH_STEP,
    LAST,
    LOW,
    LOW_STEP,
    MOST_STRETCHES,
    NOT_FINITE,
    SUM,
    Digest,
    read_digest,
)
from cait_dist.tracking.metrics import MetricsWriter


def write(folder: Path, values: list[float], key: str = "train/loss", begin: int = 0) -> MetricsWriter:
    writer = MetricsWriter(folder, begin)
    for step, value in enumerate(values, begin + 1):
        writer.append(step, 1000.0 + step, {key: value})
    return writer


def table(digest: Digest, key: str = "train/loss") -> np.ndarray:
    return digest.metrics[key].table()


@pytest.fixture
def values() -> list[float]:
    draw = random.Random(5)
    return [draw.gauss(0, 1) for _ in range(5000)]


def test_a_long_metric_keeps_few_stretches_with_the_sums_and_extremes_of_all_values(
    tmp_path: Path, values: list[float]
) -> None:
    values[1234], values[4321] = 99.0, -99.0
    write(tmp_path, values).close()
    found = table(read_digest(tmp_path))
    assert MOST_STRETCHES / 2 <= len(found) <= MOST_STRETCHES
    assert found[:, COUNT].sum() == 5000
    assert found[:, SUM].sum() == pytest.approx(sum(values))
    assert found[:, HIGH].max() == 99.0
    assert found[found[:, HIGH].argmax(), HIGH_STEP] == 1235
    assert found[found[:, LOW].argmin(), LOW_STEP] == 4322
    assert (found[1:, FIRST] == found[:-1, LAST] + 1).all(), "nothing between two stretches is left out"
    for row in found:
        part = values[int(row[FIRST]) - 1 : int(row[LAST])]
        assert (row[LOW], row[HIGH]) == (min(part), max(part))


def test_every_evaluation_is_kept(tmp_path: Path, values: list[float]) -> None:
    write(tmp_path, values, "val/top1").close()
    assert table(read_digest(tmp_path), "val/top1")[:, LOW].tolist() == values


def test_what_the_file_does_not_cover_is_read_from_the_lines(tmp_path: Path, values: list[float]) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    for folder in (whole, part):
        folder.mkdir()
    write(whole, values).close()
    write(part, values[:3000]).close()
    with (part / "metrics.jsonl").open("a") as file:
        rest = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)[3001:]
        file.writelines(rest)
        file.write('{"step": 9999, "ti')
    assert read_digest(part).last_step == 5000
    np.testing.assert_allclose(table(read_digest(part))[:, SUM].sum(), table(read_digest(whole))[:, SUM].sum())
    assert read_digest(part).last == read_digest(whole).last
    assert table(read_digest(part))[:, COUNT].sum() == 5000


@pytest.mark.parametrize("damage", ["missing", "cut", "garbage", "longer than the lines"])
def test_a_file_that_cannot_be_used_costs_nothing(tmp_path: Path, values: list[float], damage: str) -> None:
    write(tmp_path, values).close()
    right, file = table(read_digest(tmp_path)), tmp_path / DIGEST_FILE
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "garbage":
        file.write_bytes(b"garbage")
    else:
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "metrics.jsonl").write_text("".join(lines[:2001]))
        assert table(read_digest(tmp_path))[:, COUNT].sum() == 2000
        return
    np.testing.assert_array_equal(table(read_digest(tmp_path)), right)


def test_values_that_are_not_finite_are_counted_and_do_not_spoil_the_rest(tmp_path: Path) -> None:
    write(tmp_path, [math.inf, 1.0, math.nan, 3.0, -math.inf] * 1000).close()
    found = table(read_digest(tmp_path))
    assert found[:, NOT_FINITE].sum() == 3000
    assert found[:, SUM].sum() == 4000
    assert (np.nanmin(found[:, LOW]), np.nanmax(found[:, HIGH])) == (1.0, 3.0)
    assert read_digest(tmp_path).last["train/loss"][2] == -math.inf


def test_a_writer_that_was_killed_left_lines_without_the_short_form(tmp_path: Path) -> None:
    write(tmp_path, [1.0, 2.0])
    assert not (tmp_path / DIGEST_FILE).exists()
    assert read_digest(tmp_path).last["train/loss"] == (2, 1002.0, 2.0)


def test_the_step_that_an_attempt_went_on_from_is_told(tmp_path: Path) -> None:
    write(tmp_path, [1.0], begin=70).close()
    assert read_digest(tmp_path).resumed_from == 70
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0]) == {"resumed_from": 70}


def test_without_a_line_there_is_nothing(tmp_path: Path) -> None:
    assert read_digest(tmp_path).metrics == {}


def test_what_an_attempt_takes_back_is_gone(tmp_path: Path, values: list[float]) -> None:
    values[3500:] = [99.0] * 1500
    writer = write(tmp_path, values, begin=100)
    writer.append(5100, 1.0, {"val/top1": 5.0})
    writer.go_back(3600)
    for digest in (writer._digest, read_digest(tmp_path)):
        assert digest.resumed_from == 100
        assert table(digest)[:, HIGH].max() == max(value for value in values if value < 99)
        assert 3500 < digest.last["train/loss"][0] <= 3600
        assert "val/top1" not in digest.metrics
    writer.append(3601, 1.0, {"train/loss": 7.0})
    writer.close()
    assert read_digest(tmp_path).last["train/loss"] == (3601, 1.0, 7.0)
    assert read_digest(tmp_path).last_step == 3601
