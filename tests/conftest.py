"""Fixtures for tests that train: real digits, sharded once per session by the project itself, and a tiny run on them.

Being here, this file also puts its folder on the import path, so that tests find shared helpers such as ``ranks``.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cait_dist.tracking.run_directory import RunDirectory

# Here, before anything loads torch: its threads wait for each other busily, and with two test processes on two cores
# a product that takes a millisecond takes twenty.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has them ignore Ctrl-C, and all programs that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = """
name: tiny
seed: 3
runs_dir: {runs}
data: {{path: {data}, workers: 0}}
model:
  image_size: 16
  patch_size: 4
  embed_dim: 24
  depth: 3
  depth_token_only: 2
  num_heads: 2
  layer_scale_init: 0.1
  drop_path_rate: 0.2
augment: {{hflip: 0.5, rand_layers: 2, erase_probability: 0.25, mixup: 0.8, cutmix: 1.0, mix_group: 4}}
optimizer: {{lr: 2e-3, clip_grad: 1.0}}
schedule: {{warmup_epochs: 0}}
training:
  epochs: 0.4
  global_batch: 16
  precision: fp32
  ema_decay: 0.9
  log_every: 1
  collective_timeout: 60
  zero: {{stage: 2, bucket_size: 5000, param_persistence_threshold: 0}}
  checkpoint: {{every_epochs: null, every_steps: 10}}
evaluation: {{batch: 50, every_epochs: 0.15, weights: [raw, ema]}}
tracking: {{mlflow: false}}
"""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests are shared out over processes: a file stays together, and there is one SLURM cluster at a time."""
    from xdist.scheduler import LoadFileScheduling  # noqa: PLC0415 - only whoever shares tests out has it

    class ByFile(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "tests/slurm" if file.startswith("tests/slurm/") else file

    return ByFile(config, log)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as 16-pixel JPEGs in WebDataset shards."""
    from data_prep.plan import make_plan  # noqa: PLC0415 - most tests need no data
    from data_prep.run import run  # noqa: PLC0415
    from data_prep.sources import open_source  # noqa: PLC0415

    out = tmp_path_factory.mktemp("data") / "digits"
    run(make_plan(open_source("digits", image_size=16), out), workers=2, progress=False)
    return out


@pytest.fixture
def tiny_config(tmp_path: Path, digits: Path) -> Path:
    """A run of 36 steps that exercises augmentation, mixing, stochastic depth, clipping, average and evaluation."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.format(runs=tmp_path / "runs", data=digits))
    return path


@pytest.fixture(scope="session")
def shared_config(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """The same for tests that share their results within the session."""
    folder = tmp_path_factory.mktemp("shared")
    path = folder / "tiny.yaml"
    path.write_text(TINY.format(runs=folder / "runs", data=digits))
    return path


@pytest.fixture(scope="session")
def undisturbed(shared_config: Path) -> "Callable[[int], RunDirectory]":
    """The tiny run on two processes at a ZeRO stage, trained when it is first asked for; to be compared with."""
    from training_command import train  # noqa: PLC0415 - most tests train nothing

    runs: dict[int, RunDirectory] = {}

    def at(stage: int) -> "RunDirectory":
        if stage not in runs:
            arguments = (f"training.zero.stage={stage}", "--processes", "2")
            runs[stage] = train(shared_config, *arguments, name=f"undisturbed-{stage}")
        return runs[stage]

    return at
