"""What `cait bench step` measures of a configuration."""

from pathlib import Path

import pytest

from cait_dist.config import load_config
from cait_dist.training.timing import bench_step


def test_what_plans_do_not_model_is_not_measured_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: run\ndata: {path: nowhere}\ntraining: {precision: bf16, global_batch: 8}\n")
    asked = load_config(path, ["training.compile=true", "training.float8=true"]).config
    seen = []
    monkeypatch.setattr(bench_step, "_architecture", lambda config: seen.append(config) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench_step.bench_step(asked, None, 0.01, 1)
    assert seen == [load_config(path).config]
