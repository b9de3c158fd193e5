"""Each operation against timm's, pixel by pixel."""

import numpy as np
import pytest
import torch
from augment_reference import FILL, as_batch, photos, through_pillow, timm_operation, trial_images

from cait_dist.augment.operations import Kind, Layer, apply_operations, make_layer
from cait_dist.augment.randaugment import OPERATIONS

SIZES = [(64, 64), (96, 65), (37, 97), (7, 5), (3, 3), (2, 2), (1, 1), (1, 9)]
MAGNITUDES = [0.0, 0.3, 4.1, 7.6, 8.6, 9.0, 9.37, 9.99]
GEOMETRIC = {Kind.ROTATE, Kind.SLIDE_ROWS, Kind.SLIDE_COLUMNS}


def layer_of(name: str, magnitude: float, sign: float, batch: torch.Tensor) -> Layer:
    """A layer in which all images undergo the same."""
    kind, arguments = OPERATIONS[name]
    rows = np.arange(len(batch))
    level = np.full(len(rows), magnitude / 10)
    return make_layer([(kind, rows, arguments(level, np.full(len(rows), sign), *batch.shape[-2:]))])


def ours(name: str, magnitude: float, sign: float, batch: torch.Tensor) -> torch.Tensor:
    return apply_operations(batch, [layer_of(name, magnitude, sign, batch)], torch.tensor(FILL, dtype=torch.uint8))


def distance(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return (found.int() - expected.int()).abs()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [name for name, (kind, _) in OPERATIONS.items() if kind not in GEOMETRIC])
def test_colours_are_exactly_those_of_timm(name: str, size: tuple[int, int]) -> None:
    batch = as_batch(trial_images(*size))
    for magnitude in MAGNITUDES:
        for sign in (1.0, -1.0):
            expected = through_pillow(timm_operation(name, magnitude, sign), batch)
            assert torch.equal(ours(name, magnitude, sign, batch), expected), (magnitude, sign)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [name for name, (kind, _) in OPERATIONS.items() if kind in GEOMETRIC])
def test_places_are_those_of_timm_within_one_level_in_few_pixels(name: str, size: tuple[int, int]) -> None:
    batch = as_batch(trial_images(*size))
    apart = []
    for magnitude in MAGNITUDES:
        for sign in (1.0, -1.0):
            expected = through_pillow(timm_operation(name, magnitude, sign), batch)
            apart.append(distance(ours(name, magnitude, sign, batch), expected))
    differences = torch.stack(apart)
    assert differences.max() <= 1
    # Shifts by fractions of few digits often give whole numbers, which rounding takes to either side of truncation.
    assert (differences > 0).sum() <= max(2e-3 * differences.numel(), 1)


@pytest.mark.parametrize("name", [name for name, (kind, _) in OPERATIONS.items() if kind in GEOMETRIC])
def test_at_drawn_strengths_one_pixel_in_two_thousand_is_one_level_off(name: str) -> None:
    batch = as_batch(photos(224, 224))
    random = np.random.default_rng(1)
    draws = [(min(random.normal(9, 0.5), 10.0), random.choice([-1.0, 1.0])) for _ in range(10)]
    apart = [distance(ours(name, m, s, batch), through_pillow(timm_operation(name, m, s), batch)) for m, s in draws]
    assert torch.stack(apart).max() <= 1
    assert torch.stack(apart).float().mean() < 5e-4


def test_colours_are_exact_on_photos_of_full_size() -> None:
    batch = as_batch(photos(224, 224))
    for name, (kind, _) in OPERATIONS.items():
        if kind not in GEOMETRIC:
            assert torch.equal(ours(name, 9.2, 1.0, batch), through_pillow(timm_operation(name, 9.2, 1.0), batch)), name


def test_strongest_posterize_is_black() -> None:
    # Pillow 13 refuses 0 bits; versions before kept none of them, which is what the paper was trained with.
    assert not ours("Posterize", 10.0, 1.0, as_batch(photos(8, 8))).any()


@pytest.mark.parametrize("name", OPERATIONS)
def test_memory_layout_and_company_do_not_matter(name: str) -> None:
    batch = as_batch(trial_images(33, 47))
    together = ours(name, 9.0, -1.0, batch)
    for i in range(len(batch)):
        assert torch.equal(ours(name, 9.0, -1.0, batch[i : i + 1]), together[i : i + 1])
    last = batch.to(memory_format=torch.channels_last)
    found = ours(name, 9.0, -1.0, last)
    assert torch.equal(found, together)
    assert found.stride() == last.stride()


def test_each_sample_gets_its_own_operation_and_the_others_keep_their_bits() -> None:
    batch = as_batch([photos(24, 24)[0]] * 6)
    before = batch.clone()
    (invert,) = layer_of("Invert", 9, 1, batch[:2])
    (rotate,) = layer_of("Rotate", 9, 1, batch[:1])
    layer = make_layer(
        [
            (Kind.ROTATE, np.array([5]), rotate.arguments.numpy()),
            (Kind.TABLE, np.array([3, 1]), invert.arguments.numpy()),
            (Kind.EQUALIZE, np.array([], dtype=np.int64), np.zeros((0, 6))),
        ]
    )
    assert {group.kind for group in layer} == {Kind.ROTATE, Kind.TABLE}
    found = apply_operations(batch, [layer], torch.tensor(FILL, dtype=torch.uint8))
    assert torch.equal(batch, before)
    for i in (0, 2, 4):
        assert torch.equal(found[i], batch[i])
    for i in (1, 3):
        assert torch.equal(found[i], 255 - batch[i])
    assert torch.equal(found[5], ours("Rotate", 9, 1, batch[:1])[0])


def test_layers_follow_each_other() -> None:
    batch = as_batch(photos(24, 24))
    fill = torch.tensor(FILL, dtype=torch.uint8)
    steps = [layer_of(name, 9, 1, batch) for name in ("Solarize", "Rotate", "Solarize")]
    expected = batch
    for step in steps:
        expected = apply_operations(expected, [step], fill)
    assert torch.equal(apply_operations(batch, steps, fill), expected)
    assert apply_operations(batch, [(), ()], fill) is batch
