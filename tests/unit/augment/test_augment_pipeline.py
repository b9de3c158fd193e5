"""The whole augmentation: in the right order, the same however the stream is cut and the images lie in memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from augment_reference import as_batch, photos

from cait_dist.augment.erasing import erase_batch
from cait_dist.augment.mixup import mix_batch
from cait_dist.augment.normalize import Normalize
from cait_dist.augment.operations import apply_operations
from cait_dist.augment.pipeline import BatchAugmentation
from cait_dist.config import load_config
from cait_dist.config.augment import AugmentConfig
from cait_dist.data.randomness import Stream, uniform

CLASSES, START = 5, 640
EVERYTHING = AugmentConfig(rand_layers=2, rand_probability=0.9, erase_probability=0.5, mix_group=16)
JITTER = AugmentConfig(color_jitter=0.4, erase_probability=0.5, mix_group=16)
CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def look_up(purpose: str, positions: np.ndarray, draws: int) -> np.ndarray:
    return uniform(9, Stream[purpose], positions, draws)


def augmentation(config: AugmentConfig, device: str = "cpu") -> BatchAugmentation:
    return BatchAugmentation(config, CLASSES, look_up, device)


def batch(count: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    return as_batch((photos(37, 37) * count)[:count]), torch.arange(count) % CLASSES


def positions(begin: int, end: int) -> np.ndarray:
    return np.arange(START + begin, START + end)


@pytest.mark.parametrize("pieces", [2, 3, 8, 24])
@pytest.mark.parametrize("config", [EVERYTHING, JITTER])
def test_cutting_the_stream_does_not_matter(config: AugmentConfig, pieces: int) -> None:
    images, labels = batch()
    augment = augmentation(config)
    whole = augment(images, labels, positions(0, 48))
    step = 48 // pieces
    parts = [augment(images[b : b + step], labels[b : b + step], positions(b, b + step)) for b in range(0, 48, step)]
    for i in range(2):
        assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])


def test_a_sample_alone_is_what_it_is_in_company() -> None:
    images, labels = batch()
    augment = augmentation(EVERYTHING.model_copy(update={"mix_probability": 0.0}))
    whole, _ = augment(images, labels, positions(0, 48))
    for i in range(48):
        assert torch.equal(augment(images[i : i + 1], labels[i : i + 1], positions(i, i + 1))[0][0], whole[i])


@pytest.mark.parametrize("config", [EVERYTHING, JITTER])
def test_memory_layout_does_not_matter(config: AugmentConfig) -> None:
    images, labels = batch()
    before = images.clone()
    expected = augmentation(config)(images, labels, positions(0, 48))
    assert torch.equal(images, before)
    last = images.to(memory_format=torch.channels_last)
    assert not last.is_contiguous()
    found = augmentation(config)(last, labels, positions(0, 48))
    assert torch.equal(last, before)
    for i in range(2):
        assert torch.equal(found[i], expected[i])
    assert found[0].is_contiguous(memory_format=torch.channels_last)


def test_stages_follow_in_the_order_of_the_recipe() -> None:
    images, labels = batch()
    augment = augmentation(EVERYTHING)
    plan = augment.plan(positions(0, 48), 37, 37)
    assert plan.erasing is not None
    assert plan.mixing is not None
    fill = torch.tensor((124, 116, 104), dtype=torch.uint8)
    expected = Normalize(EVERYTHING.mean, EVERYTHING.std)(apply_operations(images, plan.operations, fill))
    expected = erase_batch(expected, plan.erasing)
    expected = mix_batch(expected, labels, plan.mixing, CLASSES, 0.1)
    found = augment(images, labels, positions(0, 48))
    for i in range(2):
        assert torch.equal(found[i], expected[i])


def test_by_default_nothing_is_done_but_normalising_and_mixing() -> None:
    plan = augmentation(AugmentConfig()).plan(positions(0, 48), 37, 37)
    assert not plan.operations
    assert plan.erasing is None
    assert plan.mixing is not None


def test_stages_draw_their_own_numbers() -> None:
    asked = []

    def noting(purpose: str, places: np.ndarray, draws: int) -> np.ndarray:
        asked.append((purpose, places.tolist()))
        return look_up(purpose, places, draws)

    BatchAugmentation(EVERYTHING, CLASSES, noting).plan(positions(0, 4), 37, 37)
    own = positions(0, 4).tolist()
    assert sorted(asked) == [("ERASING", own), ("MIX", [40] * 4), ("RAND_AUGMENT", own)]


def test_recipe_is_the_papers() -> None:
    augment = load_config(CONFIGS / "cait_s24_224.yaml").config.augment
    found = (augment.rand_layers, augment.rand_magnitude, augment.rand_std, augment.rand_probability)
    assert found == (2, 9.0, 0.5, 0.5)
    assert (augment.erase_probability, augment.erase_area[0], augment.color_jitter) == (0.25, 0.02, 0.0)
    assert (augment.mixup, augment.cutmix, augment.label_smoothing) == (0.8, 1.0, 0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("config", [EVERYTHING, JITTER])
def test_the_device_is_never_waited_for(config: AugmentConfig) -> None:
    images, labels = batch()
    expected = augmentation(config)(images, labels, positions(0, 48))
    augment, there = augmentation(config, "cuda"), [tensor.cuda() for tensor in (images, labels)]
    augment(*there, positions(0, 48))  # constants are moved at the first use
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = augment(*there, positions(0, 48))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert ((found[0].cpu() - expected[0]).abs() > 1e-5).float().mean() < 1e-3
    torch.testing.assert_close(found[1].cpu(), expected[1])
