"""Betons read by FFCV itself, and training that is the same from either format."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import training_command as command
from ilsvrc_tree import label_by_colour, write_ilsvrc_tree

from cait_dist.config.augment import AugmentConfig
from cait_dist.data.corrupt import stand_in
from cait_dist.data.errors import CorruptImageError, DataError
from cait_dist.data.loader import EvalLoader, TrainLoader
from cait_dist.data.loader_ffcv import FfcvTrainLoader, check_ffcv_decoder
from cait_dist.data.order import SampleOrder
from cait_dist.data.reader_ffcv import FfcvReader
from cait_dist.data.reader_webdataset import open_split
from cait_dist.tracking.metrics import read_metrics, series
from cait_dist.tracking.run_directory import RunDirectory
from data_prep.formats import prepare
from data_prep.manifest import load_manifest
from data_prep.plan import make_plan
from data_prep.sources import open_source

# Functions that numba compiled complain when they are collected in the wrong order.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
WHY_FFCV = "FFCV is not installed: pip install '.[ffcv]', which needs the headers of OpenCV and libjpeg-turbo"


@pytest.fixture(scope="module")
def ffcv() -> Any:
    """FFCV, or the test is skipped."""
    return pytest.importorskip("ffcv.loader", reason=WHY_FFCV)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as tars and as betons."""
    out = tmp_path_factory.mktemp("both") / "digits"
    prepare(make_plan(open_source("digits", image_size=32), out), "both", workers=2, progress=False)
    return out


@pytest.fixture(scope="module")
def ilsvrc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature of ILSVRC's archives in both formats, images at most 256 pixels."""
    root = tmp_path_factory.mktemp("ilsvrc")
    write_ilsvrc_tree(root / "archives")
    plan = make_plan(open_source(root / "archives"), root / "data", resize=256, max_broken=0.5)
    prepare(plan, "both", workers=2, progress=False)
    return root / "data"


def test_ffcv_itself_reads_what_was_prepared_from_ilsvrc(ffcv: Any, ilsvrc: Path) -> None:
    from ffcv.fields.basics import IntDecoder  # noqa: PLC0415
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder  # noqa: PLC0415

    for split in ("train", "val"):
        loader = ffcv.Loader(
            str(ilsvrc / split / f"{split}.beton"),
            batch_size=8,
            num_workers=1,
            order=ffcv.OrderOption.SEQUENTIAL,
            drop_last=False,
            pipelines={"image": [CenterCropRGBImageDecoder((24, 24), 1.0)], "label": [IntDecoder()]},
        )
        images, labels = (
            np.concatenate(parts) for parts in zip(*((i.copy(), n.copy()) for i, n in loader), strict=True)
        )
        expected = load_manifest(ilsvrc / split).samples["label"].tolist()
        assert labels[:, 0].tolist() == expected
        # The class is in the colour: the images are those that belong to the labels.
        assert [label_by_colour(image) for image in images] == expected


def loaders(both: Path, decoder: str, **settings: Any) -> Callable[..., Any]:
    """A function that makes the loader of one rank."""
    reader = open_split(both, "train", "webdataset" if decoder == "tar" else "ffcv")
    mode, repeats = settings.pop("mode", "full"), settings.pop("repeats", 1)
    order = SampleOrder(reader.num_samples, 7, mode, repeats, reader.shard_sizes, 4)
    make = FfcvTrainLoader if decoder == "ffcv" else TrainLoader
    return lambda **rank: make(reader, order, AugmentConfig(), image_size=8, seed=7, **settings, **rank)


def stream(make: Callable[..., Any], steps: range, world: int, batch: int, micro: int) -> list[int]:
    """Ids of the global batches of some steps, put together from all ranks."""
    parts: dict[int, list[np.ndarray]] = {step: [] for step in steps}
    for rank in range(world):
        with make(global_batch=batch, micro_batch=micro, rank=rank, world_size=world, start_step=steps.start) as loader:
            for item in itertools.islice(loader, len(steps) * loader.micro_batches):
                parts[item.step].append(item.ids)
    return np.concatenate([ids for step in steps for ids in parts[step]]).tolist()


BATCH, STEPS = 144, 10  # 1,440 positions: the 1,438 samples of a pass, and two of the next


@pytest.mark.parametrize("mode", ["full", "block"])
@pytest.mark.parametrize("decoder", ["tar", "beton"])
def test_every_sample_once_on_any_number_of_ranks_and_workers(both: Path, decoder: str, mode: str) -> None:
    reference = stream(loaders(both, "tar", mode=mode), range(STEPS), 1, BATCH, BATCH)
    assert sorted(reference[:1438]) == list(range(1438))
    for world, workers in ((1, 3), (2, 1), (3, 3), (4, 1)):
        make = loaders(both, decoder, mode=mode, workers=workers)
        assert stream(make, range(STEPS), world, BATCH, BATCH // world // 2) == reference
        # From the middle of the pass on, on another number of ranks.
        other = world % 4 + 1
        assert stream(make, range(4, 6), other, BATCH, BATCH // other) == reference[4 * BATCH : 6 * BATCH]


@pytest.mark.parametrize("storage", ["webdataset", "ffcv"])
def test_evaluation_sees_every_sample_once_and_pads_nothing(both: Path, storage: Literal["webdataset", "ffcv"]) -> None:
    reader = open_split(both, "val", storage)
    for world, workers in itertools.product((1, 2, 3, 4), (1, 3)):
        ids = [
            batch.ids
            for rank in range(world)
            for batch in EvalLoader(
                reader, image_size=8, crop_ratio=1.0, batch=50, rank=rank, world_size=world, workers=workers
            )
        ]
        assert np.concatenate(ids).tolist() == list(range(359))


@pytest.mark.parametrize("mode", ["full", "block"])
def test_every_sample_three_times_with_repeated_augmentation(both: Path, mode: str) -> None:
    reference = stream(loaders(both, "tar", mode=mode, repeats=3), range(30), 1, BATCH, BATCH)
    assert np.bincount(reference[: 3 * 1438], minlength=1438).tolist() == [3] * 1438
    for decoder in ("tar", "beton"):
        make = loaders(both, decoder, mode=mode, repeats=3, workers=3)
        assert stream(make, range(30), 3, BATCH, 48) == reference


@pytest.mark.parametrize("mode", ["full", "block"])
def test_ffcv_s_own_loader_gives_the_same_stream(ffcv: Any, both: Path, mode: str) -> None:
    reference = stream(loaders(both, "tar", mode=mode, repeats=3), range(30), 1, BATCH, BATCH)
    make = loaders(both, "ffcv", mode=mode, repeats=3, workers=3 if mode == "full" else 1)
    assert stream(make, range(30), 1, BATCH, 36) == reference
    assert stream(make, range(4, 6), 2, BATCH, 36) == reference[4 * BATCH : 6 * BATCH]


def test_ffcv_s_own_loader_shows_the_same_crops_and_flips(ffcv: Any, both: Path) -> None:
    settings = {"image_size": 24, "seed": 1, "global_batch": 64, "micro_batch": 64}
    reader = FfcvReader(both / "train")
    order = SampleOrder(reader.num_samples, 1)
    with (
        TrainLoader(reader, order, AugmentConfig(), **settings) as exact,
        FfcvTrainLoader(reader, order, AugmentConfig(), **settings) as theirs,
    ):
        ours, found = next(exact).images.float(), next(theirs).images.float()
    difference = (ours - found).abs()
    # libjpeg's fast transforms and OpenCV's area filter, against exact ones and an antialiased cubic.
    assert difference.mean() < 4
    # Another crop or flip would show: the mirrored image is far from it, but for the digits that are symmetric.
    others = (ours.flip(3) - found).abs().mean((1, 2, 3))
    assert (others > 2 * difference.mean((1, 2, 3))).float().mean() > 0.9


def copy_with_broken_images(both: Path, target: Path, samples: list[int]) -> FfcvReader:
    """The beton of the training split with some images that cannot be decoded."""
    target.mkdir()
    for name in ("train.beton", "train.beton.json"):
        (target / name).write_bytes((both / "train" / name).read_bytes())
    reader = FfcvReader(target)
    with reader.beton.open("r+b") as file:
        for sample in samples:
            offset, size, *_ = reader.table[sample].item()
            file.seek(offset + 2)
            file.write(bytes(size - 2))
    return reader


def test_an_image_that_ffcv_cannot_decode_is_named_or_has_stand_ins(ffcv: Any, both: Path, tmp_path: Path) -> None:
    place = SampleOrder(1438, 1).ids(np.arange(1438)).tolist().index(11)
    others = [stand_in(1, place, trial, 1438) for trial in range(3)]
    reader = copy_with_broken_images(both, tmp_path / "train", [11, *others[:2]])
    settings = {"image_size": 8, "seed": 1, "global_batch": 1438, "micro_batch": 719}
    order = SampleOrder(1438, 1)
    with (
        FfcvTrainLoader(reader, order, AugmentConfig(), **settings) as loader,
        pytest.raises(CorruptImageError, match=r"sample \d+ \(.*train\.beton, offset \d+"),
    ):
        list(itertools.islice(loader, 2))
    with (
        FfcvTrainLoader(reader, order, AugmentConfig(), skip_corrupt=True, **settings) as theirs,
        TrainLoader(reader, order, AugmentConfig(), skip_corrupt=True, **settings) as exact,
    ):
        for found, expected in itertools.islice(zip(theirs, exact, strict=True), 2):
            found_at, expected_at = ({(c.position, c.sample) for c in batch.corrupt} for batch in (found, expected))
            assert found_at == expected_at
            assert found.ids.tolist() == expected.ids.tolist()
            assert found.labels.tolist() == reader.labels[found.ids].tolist()
            if place in found.positions:
                row = found.positions.tolist().index(place)
                assert {(place, 11), (place, others[0]), (place, others[1])} <= found_at, "one after the other"
                assert found.ids[row] == others[2]
                assert torch.equal(found.images[row], expected.images[row]), "who stands in is decoded exactly"


def test_a_dead_thread_of_ffcv_s_is_not_waited_for(ffcv: Any, both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ffcv.loader.epoch_iterator import EpochIterator  # noqa: PLC0415

    def die(*_: object) -> None:
        raise RuntimeError("out of memory, say")

    reader = FfcvReader(both / "train")
    settings = {"image_size": 8, "seed": 1, "global_batch": 64, "micro_batch": 64}
    monkeypatch.setattr(EpochIterator, "run_pipeline", die)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    loader = FfcvTrainLoader(reader, SampleOrder(1438, 1), AugmentConfig(), **settings)
    with loader, pytest.raises(DataError, match="FFCV's decoding thread died"):
        next(loader)


def test_without_ffcv_the_message_says_what_to_do(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ffcv.loader", None)
    with pytest.raises(DataError, match=r"cannot be imported .* data\.decoder=exact"):
        check_ffcv_decoder(open_split(both, "train", "ffcv"))
    with pytest.raises(DataError, match="reads betons only"):
        check_ffcv_decoder(open_split(both, "train", "webdataset"))


@pytest.fixture(scope="module")
def config(shared_config: Path, both: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run on the data that are there in both formats."""
    path = tmp_path_factory.mktemp("formats") / "tiny.yaml"
    text = shared_config.read_text().replace(str(shared_config.parent), str(path.parent))
    place = text.split("path: ", 1)[1].split(",", 1)[0]
    path.write_text(text.replace(place, str(both)))
    return path


@pytest.fixture(scope="module")
def betons(config: Path) -> RunDirectory:
    """Trained from the beton, and decoded exactly."""
    return command.train(config, "data.format=ffcv", "data.workers=1", "--processes", "2", name="betons")


def test_training_computes_the_same_from_tars_and_from_betons_and_may_evaluate_in_another_folder(
    config: Path, betons: RunDirectory, digits: Path
) -> None:
    sets = f"evaluation.sets=[{{name: val}}, {{name: there, split: val, path: {digits}}}]"
    tars = command.train(config, "data.format=webdataset", sets, "--processes", "2", name="tars")
    assert command.losses(tars) == command.losses(betons)
    assert command.evaluations(tars) == command.evaluations(betons)
    assert command.final_state(tars) == command.final_state(betons)
    here, there = (series(read_metrics(tars), f"{name}/loss") for name in ("val", "there"))
    # The same digits in another size: evaluated both, and not the same pixels.
    assert [step for step, _ in here] == [step for step, _ in there]
    assert here
    assert all(0 < abs(a - b) < 0.5 for (_, a), (_, b) in zip(here, there, strict=True))
    status, _, errors = command.start(config, sets.replace(str(digits), "/nowhere"), name="three").finish()
    assert status == 2
    assert "'evaluation.sets.1': /nowhere: no such folder" in errors


def test_a_run_changes_its_format_in_the_middle(config: Path, betons: RunDirectory) -> None:
    training = command.start(config, "data.format=webdataset", "--processes", "2", name="moved")
    training.wait_for_checkpoint(10)
    training.process.terminate()
    assert training.finish()[0] == 75
    moved = command.train(config, "data.format=ffcv", "--processes", "2", name="moved")
    assert command.losses(moved) == command.losses(betons)
    assert command.final_state(moved) == command.final_state(betons)


def test_training_with_ffcv_s_decoder_differs_by_its_pixels_alone(
    ffcv: Any, config: Path, betons: RunDirectory
) -> None:
    exact = command.losses(betons)
    arguments = ("data.format=ffcv", "data.decoder=ffcv", "data.workers=1", "--processes", "2")
    theirs = command.train(config, *arguments, name="theirs")
    steps, losses = zip(*command.losses(theirs), strict=True)
    assert steps == tuple(step for step, _ in exact)
    difference = np.abs(np.array(losses) - [loss for _, loss in exact])
    print(f"largest difference of a loss: {difference.max():.4f}, of the first: {difference[0]:.4f}")
    assert 0 < difference[0] < 0.02
    assert difference.max() < 0.2
    # The decoder is part of what is computed: a run keeps to its own.
    status, _, errors = command.start(config, "data.format=ffcv", name="theirs").finish()
    assert status == 2
    assert "'data.decoder' was 'ffcv'" in errors


def test_ffcv_leaves_torch_s_threads_alone(ffcv: Any, both: Path) -> None:
    reader = FfcvReader(both / "train")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        settings = {"image_size": 8, "seed": 1, "global_batch": 64, "micro_batch": 64, "workers": 2}
        with FfcvTrainLoader(reader, SampleOrder(1438, 1), AugmentConfig(), **settings) as loader:
            next(loader)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
