"""Fine-tuning at a higher resolution: what was trained at 32 px goes on at 48 px, from a run or from a published file.

The configurations are those that ship, for a smaller network and fewer epochs.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from ranks import run_on_ranks

from cait_dist.config import load_config
from cait_dist.models.weights import resize_pos_embed, save_weights
from cait_dist.tracking.metrics import read_metrics, series
from cait_dist.tracking.run_directory import RunDirectory
from cait_dist.training.saving.saved_weights import open_weights
from cait_dist.training.starting.initial_model import initial_model
from cait_dist.training.starting.plan import CannotStartError
from cait_dist.training.starting.preflight import preflight
from data_prep.plan import make_plan
from data_prep.run import run as prepare
from data_prep.sources import open_source

PROGRAM = Path(__file__).with_name("training_program.py")
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "finetune"
SMALLER = [
    "model.depth=3", "training.zero.stage=1", "training.log_every=1", "training.global_batch=32",
    "tracking.mlflow=false", "augment.mixup=0", "augment.crop_scale=[0.8,1]", "evaluation.crop_ratio=1",
]  # fmt: skip
EPOCHS = {"digits_32": 6, "digits_48": 2}

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Trained:
    """Both runs, and the settings they were trained with."""

    folder: Path
    settings: list[str]

    def run(self, name: str) -> RunDirectory:
        return RunDirectory(self.folder / "runs" / name)

    def top1(self, name: str) -> list[float]:
        return [value for _, value in series(read_metrics(self.run(name)), "val/top1")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("finetuning")
    prepare(make_plan(open_source("digits", image_size=48), folder / "digits"), workers=2, progress=False)
    settings = [*SMALLER, f"data.path={folder / 'digits'}", f"runs_dir={folder / 'runs'}"]
    start = f"model.init_from={folder / 'runs' / 'digits_32'}"
    wanted = [
        {
            "config": str(CONFIGS / f"{name}.yaml"),
            "overrides": [*settings, f"training.epochs={epochs}", *([start] if name == "digits_48" else [])],
        }
        for name, epochs in EPOCHS.items()
    ]
    run_on_ranks(PROGRAM, 1, wanted, folder / "done.json")
    return Trained(folder, settings)


def start(trained: Trained, *settings: str, name: str = "digits_48") -> tuple[dict[str, torch.Tensor], list[str]]:
    """What a run with these settings starts from, and what it says about it."""
    config = load_config(CONFIGS / f"{name}.yaml", [*trained.settings, *settings]).config
    model, notes = initial_model(config, 10)
    return model.state_dict(), notes


def test_it_starts_from_the_resized_embedding_and_everything_else_as_it_was(trained: Trained) -> None:
    _, _, before, step, _, _ = open_weights(trained.run("digits_32").path)
    weights, notes = start(trained, f"model.init_from={trained.run('digits_32').path}")
    assert before["pos_embed"].shape[1] == 16
    torch.testing.assert_close(weights.pop("pos_embed"), resize_pos_embed(before.pop("pos_embed"), 6), rtol=0, atol=0)
    assert all(torch.equal(weights[name], before[name]) for name in weights | before)
    assert "position embedding resized from 4x4 to 6x6 patches" in notes[0]
    assert f"(raw, step {step})" in notes[0]


def test_the_first_step_already_knows_digits(trained: Trained) -> None:
    # Both losses are of the same 32 images, before the run has learnt anything.
    begins = {name: series(read_metrics(trained.run(name)), "train/loss")[0][1] for name in EPOCHS}
    assert begins["digits_48"] < 0.9 * begins["digits_32"]


def test_it_ends_at_least_as_good(trained: Trained) -> None:
    before, after = trained.top1("digits_32")[-1], trained.top1("digits_48")[-1]
    print(f"top-1 at 32 px {before:.2f} %, fine-tuned at 48 px {after:.2f} %")
    assert before > 70
    assert after >= before


@pytest.mark.parametrize("resolution", [32, 48])
def test_a_file_in_the_form_of_the_published_ones_loads_at_either_resolution(
    trained: Trained, tmp_path: Path, resolution: int
) -> None:
    _, _, before, *_ = open_weights(trained.run("digits_32").path)
    path = tmp_path / "published.pth"
    save_weights(before, path, format="deit")
    assert set(torch.load(path, weights_only=True)) == {"model"}
    weights, _ = start(trained, f"model.init_from={path}", name=f"digits_{resolution}")
    from_run, _ = start(trained, f"model.init_from={trained.run('digits_32').path}", name=f"digits_{resolution}")
    assert all(torch.equal(weights[name], from_run[name]) for name in weights | from_run)
    if resolution == 32:
        assert torch.equal(weights["pos_embed"], before["pos_embed"])


def test_a_checkpoint_of_another_step_can_be_named(trained: Trained) -> None:
    first = sorted(trained.run("digits_32").checkpoints.iterdir())[0]
    weights, notes = start(trained, f"model.init_from={first}")
    _, _, expected, step, _, _ = open_weights(first)
    assert torch.equal(weights["head.weight"], expected["head.weight"])
    assert f"step {step})" in notes[0]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["model.init_from={folder}/runs/none"], "there is no"),
        (["model.init_from={folder}/digits"], "no run"),
        (["model.init_from={folder}/runs/digits_32", "model.init_weights=ema"], "keeps no moving average"),
    ],
)
def test_weights_that_are_not_there_are_told_before_anything_starts(
    trained: Trained, settings: list[str], complaint: str
) -> None:
    filled = [setting.format(folder=trained.folder) for setting in settings]
    config = load_config(CONFIGS / "digits_48.yaml", [*trained.settings, "name=other", *filled]).config
    with pytest.raises(CannotStartError, match=rf"'model\.init_from': .*{complaint}"):
        preflight(config, 1)


def test_a_run_that_has_a_checkpoint_needs_no_weights_to_start_from(trained: Trained) -> None:
    gone = f"model.init_from={trained.folder / 'gone'}"
    config = load_config(CONFIGS / "digits_48.yaml", [*trained.settings, "training.epochs=2", gone]).config
    assert preflight(config, 1).image_size == 48
    assert initial_model(config, 10, resumed=True)[1] == []


def test_weights_of_another_network_are_refused_by_name(trained: Trained) -> None:
    with pytest.raises(CannotStartError, match=r"'model\.init_from': .*does not fit the model.*blocks\.3"):
        start(trained, f"model.init_from={trained.run('digits_32').path}", "model.depth=4")
