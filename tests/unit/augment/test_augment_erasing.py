"""Random erasing: its boxes against timm's, its noise against the normal distribution."""

import random

import numpy as np
import pytest
import torch
from augment_reference import timm_data

from cait_dist.augment.erasing import ERASE_DRAWS, ErasePlan, _mix64, erase_batch, erase_plan, normal_noise
from cait_dist.config.augment import AugmentConfig
from cait_dist.data.randomness import Stream, mix64, uniform

PAPER = AugmentConfig(erase_probability=0.25)
ALWAYS = AugmentConfig(erase_probability=1.0)


def plan_for(positions: np.ndarray, config: AugmentConfig, height: int, width: int) -> ErasePlan | None:
    return erase_plan(uniform(5, Stream.ERASING, positions, ERASE_DRAWS), config, height, width)


def boxes_of(count: int, config: AugmentConfig, height: int, width: int) -> np.ndarray:
    plan = plan_for(np.arange(count), config, height, width)
    assert plan is not None
    return plan.boxes.numpy()


def timm_boxes(count: int, probability: float, height: int, width: int) -> np.ndarray:
    """Boxes that timm erases: it writes into an object that only notes where."""
    boxes = []

    class Notes:
        def __setitem__(self, place: tuple[slice, slice, slice], _: object) -> None:
            boxes.append((place[1].start, place[1].stop, place[2].start, place[2].stop))

    module = timm_data("random_erasing")
    erasing = module.RandomErasing(probability=probability, mode="pixel", device="cpu")
    random.seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_get_pixels", lambda *_, **__: None)
        for _ in range(count):
            erasing._erase(Notes(), 3, height, width, torch.float32)
    return np.array(boxes)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (40, 160), (33, 24)])
def test_boxes_follow_the_law_of_timm(height: int, width: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    ours, theirs = boxes_of(6000, ALWAYS, height, width), timm_boxes(6000, 1.0, height, width)
    for measure in (
        lambda b: (b[:, 1] - b[:, 0]) * (b[:, 3] - b[:, 2]) / (height * width),
        lambda b: np.log((b[:, 1] - b[:, 0]) / (b[:, 3] - b[:, 2])),
        lambda b: b[:, 0],
        lambda b: b[:, 2],
        lambda b: (b[:, 0] + b[:, 1]) / 2,
    ):
        assert stats.ks_2samp(measure(ours), measure(theirs)).pvalue > 1e-3
    assert len(ours) == pytest.approx(len(theirs), abs=30)
    assert ours.min() >= 0
    assert ours[:, 1].max() == height
    assert ours[:, 3].max() == width
    assert ((ours[:, 1] - ours[:, 0] < height) & (ours[:, 3] - ours[:, 2] < width)).all()


def test_a_quarter_of_the_samples_is_erased() -> None:
    stats = pytest.importorskip("scipy.stats")
    ours, theirs = len(boxes_of(8000, PAPER, 224, 224)), len(timm_boxes(8000, 0.25, 224, 224))
    assert stats.binomtest(ours, 8000, 0.25).pvalue > 1e-3
    assert stats.chi2_contingency([[ours, 8000 - ours], [theirs, 8000 - theirs]]).pvalue > 1e-3


def test_what_never_fits_is_not_erased() -> None:
    whole = AugmentConfig(erase_probability=1.0, erase_area=(1.0, 1.0))
    assert plan_for(np.arange(50), whole, 32, 32) is None
    assert plan_for(np.arange(50), AugmentConfig(erase_probability=0.0), 32, 32) is None


def test_the_hash_is_that_of_the_host() -> None:
    words = np.random.default_rng(0).integers(-(2**63), 2**63, 1000, dtype=np.int64)
    found = _mix64(torch.from_numpy(words))
    assert np.array_equal(found.numpy().view(np.uint64), mix64(words.view(np.uint64).copy()))


def test_noise_is_normal_and_independent() -> None:
    stats = pytest.importorskip("scipy.stats")
    keys = torch.from_numpy((uniform(5, Stream.ERASING, np.arange(20), 1)[:, 0] * 2.0**53).astype(np.int64))
    noise = normal_noise(keys, 20_000).double()
    assert stats.kstest(noise.flatten()[::7].numpy(), "norm").pvalue > 1e-3
    # Standard errors for 1.2 million numbers: mean 0.0009, variance 0.0013, kurtosis 0.0045.
    assert abs(noise.mean()) < 4e-3
    assert noise.var().item() == pytest.approx(1, abs=6e-3)
    assert (noise**4).mean().item() == pytest.approx(3, abs=0.04)
    bound = 5 / 400_000**0.5
    for a, b in [(noise[:, 0], noise[:, 1]), (noise[:, 1], noise[:, 2]), (noise[..., 1:], noise[..., :-1])]:
        assert abs((a * b).mean()) < bound
    assert abs((noise[1:] * noise[:-1]).mean()) < bound


def test_only_the_box_becomes_noise() -> None:
    plan = plan_for(np.arange(64), PAPER, 20, 30)
    assert plan is not None
    images = torch.full((64, 3, 20, 30), 7.0)
    found = erase_batch(images.clone(), plan)
    inside = torch.zeros(64, 3, 20, 30, dtype=torch.bool)
    for row, (top, bottom, left, right) in zip(plan.rows.tolist(), plan.boxes.tolist(), strict=True):
        inside[row, :, top:bottom, left:right] = True
    assert (found[~inside] == 7).all()
    assert (found[inside] != 7).all()
    assert 0.15 < inside.any(3).any(2).any(1).float().mean() < 0.35
    assert erase_batch(images, None) is images


@pytest.mark.parametrize("pieces", [2, 3, 8, 48])
def test_cutting_the_stream_does_not_matter(pieces: int) -> None:
    images = torch.randn(48, 3, 17, 23, generator=torch.Generator().manual_seed(0))

    def erase(begin: int, end: int) -> torch.Tensor:
        return erase_batch(images[begin:end].clone(), plan_for(np.arange(100 + begin, 100 + end), PAPER, 17, 23))

    step = 48 // pieces
    parts = [erase(begin, begin + step) for begin in range(0, 48, step)]
    assert torch.equal(torch.cat(parts), erase(0, 48))


def test_channels_last_and_half_precision_are_kept() -> None:
    plan = plan_for(np.arange(16), ALWAYS, 20, 30)
    images = torch.zeros(16, 3, 20, 30)
    expected = erase_batch(images.clone(), plan)
    last = erase_batch(images.to(memory_format=torch.channels_last), plan)
    assert torch.equal(last, expected)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(erase_batch(images.bfloat16(), plan), expected.bfloat16())
