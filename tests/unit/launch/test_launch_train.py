"""What `cait train` says at its end."""

from pathlib import Path

import pytest

from cait_dist.config import load_config
from launch.train import where_in_mlflow

DIGITS = Path(__file__).parents[3] / "configs/digits.yaml"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["runs_dir=/data/runs"], "cait track ui /data/runs"),
        (["runs_dir=/data/runs/grid", "tracking.uri=sqlite:////data/runs/mlflow.db"], "cait track ui /data/runs"),
        (["tracking.uri=http://login01:5000"], "http://login01:5000"),
        (["runs_dir=/data/runs", "tracking.mlflow=false"], "was told nothing: cait track sync /data/runs/digits"),
    ],
)
def test_where_a_run_is_seen_in_mlflow(settings: list[str], expected: str) -> None:
    assert where_in_mlflow(load_config(DIGITS, settings).config) == expected
