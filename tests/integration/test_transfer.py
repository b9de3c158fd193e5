"""The paper's transfer: each of its data sets from the files as they are published to a trained run.

The files are small ones in the published layouts, `cait prep` makes data sets of them, and the configurations are those
that ship, for a tiny network. What it was pre-trained on had other classes and smaller images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import transfer_sets
from ranks import run_on_ranks
from transfer_sets import Facts
from typer.testing import CliRunner

from cait_dist.cli import app
from cait_dist.data.decode import decode_rgb
from cait_dist.data.reader_webdataset import open_split
from cait_dist.models import create_model
from cait_dist.models.weights import save_weights
from cait_dist.tracking.metrics import read_metrics, series
from cait_dist.tracking.run_directory import RunDirectory
from cait_dist.training.saving.saved_weights import open_weights
from data_prep.verify import verify

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("training_program.py")
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "transfer"
TINY = {"patch_size": 8, "embed_dim": 16, "depth": 2, "depth_token_only": 1, "num_heads": 2, "layer_scale_init": 0.1}
OVERRIDES = [
    *(f"model.{name}={value}" for name, value in TINY.items()), "model.image_size=32", "training.epochs=1",
    "training.global_batch=8", "training.precision=fp32", "training.log_every=1", "training.checkpoint.every_epochs=1",
    "evaluation.every_epochs=1", "evaluation.batch=16", "schedule.warmup_epochs=0", "tracking.mlflow=false",
    "data.workers=0", "optimizer.lr=1e-3",
]  # fmt: skip

WRITTEN: dict[str, Callable[[Path], Facts]] = {
    "cifar10": transfer_sets.write_cifar,
    "cifar100": lambda root: transfer_sets.write_cifar(root, hundred=True, per_file=24),
    "flowers": transfer_sets.write_flowers,
    "cars": transfer_sets.write_cars,
    "inat18": lambda root: transfer_sets.write_inaturalist(root, 2018),
    "inat19": lambda root: transfer_sets.write_inaturalist(root, 2019, tar=False),
    "cifar10 binary": lambda root: transfer_sets.write_cifar(root, binary=True, packed=False),
    "cars as first published": lambda root: transfer_sets.write_cars(root, later=False),
}
"""What writes each data set; beside the six of the configurations, two in another layout."""


@dataclass(frozen=True)
class Transferred:
    """All data sets, and a run on each.

    Attributes:
        folder: for all that is written.
        facts: what is true of each data set.
        pretrained: the weights that every run started from.
    """

    folder: Path
    facts: dict[str, Facts]
    pretrained: dict[str, torch.Tensor]

    def run(self, name: str) -> RunDirectory:
        return RunDirectory(self.folder / "runs" / name.replace(" ", "-"))


@pytest.fixture(scope="module")
def transferred(tmp_path_factory: pytest.TempPathFactory) -> Transferred:
    folder = tmp_path_factory.mktemp("transfer")
    torch.manual_seed(5)
    model = create_model("cait_s36_224", num_classes=7, **TINY, image_size=16)
    weights = folder / "pretrained.safetensors"
    save_weights(model.state_dict(), weights)
    facts, runs = {}, []
    for name, write in WRITTEN.items():
        facts[name] = write(folder / "published" / name)
        prepare(folder / "published" / name, folder / "data" / name)
        settings = [f"runs_dir={folder / 'runs'}", f"data.path={folder / 'data' / name}", f"model.init_from={weights}"]
        config = CONFIGS / f"{name.partition(' ')[0]}.yaml"
        runs.append({"config": str(config), "overrides": [*OVERRIDES, *settings, f"name={name.replace(' ', '-')}"]})
    run_on_ranks(PROGRAM, 1, runs, folder / "done.json")
    return Transferred(folder, facts, model.state_dict())


def prepare(source: Path, out: Path) -> None:
    """Run `cait prep` as a user does, but in this process."""
    arguments = ["prep", str(source), "--out", str(out), "--workers", "1"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", WRITTEN)
def test_every_stored_image_shows_the_class_of_its_label(transferred: Transferred, name: str) -> None:
    facts, data = transferred.facts[name], transferred.folder / "data" / name
    for split, labels in facts.labels.items():
        reader = open_split(data, split)
        assert reader.class_names == facts.classes
        assert {reader.source_name(i): int(reader.labels[i]) for i in range(reader.num_samples)} == labels
        for index in range(reader.num_samples):
            stored = reader.read(index)
            assert isinstance(stored, bytes)
            assert facts.label_of(decode_rgb(stored)) == reader.labels[index]
            if (image := reader.source_name(index)) in facts.content:
                assert stored == facts.content[image]
            else:
                np.testing.assert_array_equal(decode_rgb(stored), facts.pixels[image])
    assert verify(data).ok
    assert not (data / ".scratch").exists()


@pytest.mark.parametrize("name", WRITTEN)
def test_the_configuration_that_ships_trains_on_it(transferred: Transferred, name: str) -> None:
    facts, run = transferred.facts[name], transferred.run(name)
    rows = read_metrics(run)
    steps = len(facts.labels["train"]) // 8
    assert [step for step, _ in series(rows, "train/loss")] == list(range(1, steps + 1))
    assert [step for step, _ in series(rows, "val/top1")] == [steps]
    assert all(np.isfinite(loss) for key in ("train/loss", "val/loss") for _, loss in series(rows, key))


@pytest.mark.parametrize("name", WRITTEN)
def test_it_began_with_the_pre_trained_weights_and_a_new_head(transferred: Transferred, name: str) -> None:
    _, _, weights, _, _, _ = open_weights(transferred.run(name).path)
    before = transferred.pretrained
    assert before["head.weight"].shape[0] == 7
    assert weights["head.weight"].shape[0] == len(transferred.facts[name].classes)
    assert (before["pos_embed"].shape[1], weights["pos_embed"].shape[1]) == (4, 16)
    for key in ("patch_embed.proj.weight", "blocks.1.attn.qkv.weight", "blocks.0.mlp.fc1.weight"):
        moved = (weights[key] - before[key]).norm() / before[key].norm()
        assert 0 < moved < 0.3, key


@pytest.mark.parametrize(("one", "other"), [("cifar10", "cifar10 binary")])
def test_layouts_of_one_data_set_make_the_same_shards(transferred: Transferred, one: str, other: str) -> None:
    tars = [sorted((transferred.folder / "data" / name).rglob("*.tar")) for name in (one, other)]
    assert [tar.name for tar in tars[0]] == [tar.name for tar in tars[1]]
    assert [tar.read_bytes() for tar in tars[0]] == [tar.read_bytes() for tar in tars[1]]
    losses = [series(read_metrics(transferred.run(name)), "train/loss") for name in (one, other)]
    assert losses[0] == losses[1]
