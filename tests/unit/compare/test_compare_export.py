"""For programs: all of it as JSON, a row for each run as CSV."""

import csv
import json
import math
from pathlib import Path

import numpy as np
from compared_runs import a_run, curve, seeds, two_settings

from cait_dist.compare.compare_runs import compare_runs
from cait_dist.compare.comparison import Comparison
from cait_dist.compare.showing.export import to_json, write_csv, write_json


def example() -> Comparison:
    runs = [*two_settings(), *seeds("odd", [math.nan, 80.0], settings={"optimizer.lr": 9})]
    return compare_runs(runs, paper=True, price=2.0, target=70.0)


def rows_of(comparison: Comparison, tmp_path: Path) -> list[dict[str, str]]:
    write_csv(comparison, tmp_path / "runs.csv")
    with (tmp_path / "runs.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_json_holds_every_part_and_is_strict_json(tmp_path: Path) -> None:
    comparison = example()
    write_json(comparison, tmp_path / "c.json")
    found = json.loads((tmp_path / "c.json").read_text(), parse_constant=lambda name: 1 / 0)
    assert set(found) == set(Comparison.__dataclass_fields__)
    assert found["verdict"] == comparison.verdict
    assert [test["p"] for test in found["tests"]] == [test.p for test in comparison.tests]
    assert [group["label"] for group in found["groups"]] == [group.label for group in comparison.groups]
    assert found["rows"][0]["efficiency"]["cost"] == 4.0
    assert found["rows"][0]["paper"]["reasons"]
    assert len(found["paper"]) == 23
    assert found["runs"][0]["config"]["optimizer.lr"] == 0.001
    assert found["runs"][0]["facts"]["sets"]["val"]["images"] == 360


def test_json_has_null_where_a_value_is_no_number_and_no_curves() -> None:
    found = to_json(example())
    broken = next(row for row in found["rows"] if row["name"] == "odd-seed_0")
    assert broken["last"]["val/top1"] is None
    assert "curves" not in found["runs"][0]
    json.dumps(found, allow_nan=False)


def test_json_takes_numbers_of_numpy_and_paths_for_what_they_are() -> None:
    run = a_run("a", settings={"optimizer.lr": np.float64(0.5)}, predictions={"val/raw": Path("p.npz")})
    found = to_json(compare_runs([run]))
    assert found["runs"][0]["config"]["optimizer.lr"] == 0.5
    assert found["runs"][0]["predictions"] == {"val/raw": "p.npz"}


def test_csv_has_a_row_for_each_run_with_results_cost_and_paper(tmp_path: Path) -> None:
    comparison = example()
    rows = rows_of(comparison, tmp_path)
    assert [row["run"] for row in rows] == [run.name for run in comparison.runs]
    first = rows[0]
    assert (first["group"], first["optimizer.lr"], first["seed"], first["outcome"]) == (
        "lr=0.001",
        "0.001",
        "0",
        "finished",
    )
    assert (float(first["last val/top1"]), float(first["best val/top1"])) == (71.1, 71.1)
    assert (float(first["images_per_second"]), float(first["cost"])) == (1000.0, 4.0)
    assert first["scaling"] == ""
    assert "makes another model" in first["paper_reasons"]


def test_csv_says_which_runs_count_and_that_a_result_is_no_number(tmp_path: Path) -> None:
    broken = next(row for row in rows_of(example(), tmp_path) if row["run"] == "odd-seed_0")
    assert (broken["counts"], broken["last val/top1"]) == ("False", "nan")


def test_csv_has_a_column_for_what_only_some_runs_measured(tmp_path: Path) -> None:
    runs = [a_run("a"), a_run("b", seed=1, curves={"v2/top1": curve(50.0)})]
    rows = rows_of(compare_runs(runs), tmp_path)
    assert [row["last v2/top1"] for row in rows] == ["", "50.0"]
