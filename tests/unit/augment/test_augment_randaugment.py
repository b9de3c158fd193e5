"""The law of RandAugment against timm's own draws."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from augment_reference import timm_data

from cait_dist.augment.operations import Kind
from cait_dist.augment.randaugment import DRAWS_PER_LAYER, OPERATIONS, magnitudes, rand_augment_plan
from cait_dist.config.augment import AugmentConfig
from cait_dist.data.randomness import Stream, uniform

PAPER = AugmentConfig(rand_layers=2)
COUNT = 30_000


def draws(count: int = COUNT, layers: int = 2) -> np.ndarray:
    return uniform(11, Stream.RAND_AUGMENT, np.arange(count), layers * DRAWS_PER_LAYER)


def timm_draws(count: int = COUNT) -> list[list[tuple[str, tuple[Any, ...]]]]:
    """What timm would apply to each of many images: names and arguments, without applying it."""
    reference = timm_data("auto_augment")
    applied: list[tuple[str, tuple[Any, ...]]] = []
    augment = reference.rand_augment_transform("rand-m9-mstd0.5-inc1", {"translate_const": 100, "img_mean": (1, 2, 3)})
    for operation in augment.ops:
        name = operation.name
        operation.aug_fn = lambda image, *arguments, name=name, **_: applied.append((name, arguments))
    random.seed(0)
    np.random.seed(0)
    images = []
    for _ in range(count):
        applied.clear()
        augment(None)
        images.append(list(applied))
    return images


def our_names() -> list[list[str]]:
    """Names of what we apply to each image: arguments tell apart what shares a kind, here by one layer per name."""
    numbers = (draws().reshape(COUNT, 2, DRAWS_PER_LAYER)[..., 0] * 15).astype(int)
    applied = draws().reshape(COUNT, 2, DRAWS_PER_LAYER)[..., 1] < 0.5
    names = list(OPERATIONS)
    return [[names[n] for n, on in zip(*row, strict=True) if on] for row in zip(numbers, applied, strict=True)]


def test_operations_are_timms() -> None:
    theirs = timm_data("auto_augment")._RAND_INCREASING_TRANSFORMS
    assert [name.removesuffix("Increasing").removesuffix("Rel") for name in theirs] == list(OPERATIONS)


def test_each_operation_is_applied_as_often_as_by_timm() -> None:
    stats = pytest.importorskip("scipy.stats")
    theirs = [name.removesuffix("Increasing").removesuffix("Rel") for image in timm_draws() for name, _ in image]
    ours = [name for image in our_names() for name in image]
    table = [[names.count(name) for name in OPERATIONS] for names in (ours, theirs)]
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert stats.chisquare(table[0]).pvalue > 1e-3


def test_images_undergo_none_one_or_two_as_by_timm() -> None:
    stats = pytest.importorskip("scipy.stats")
    numbers = [np.bincount([len(image) for image in images], minlength=3) for images in (our_names(), timm_draws())]
    assert stats.chi2_contingency(numbers).pvalue > 1e-3
    assert stats.chisquare(numbers[0], COUNT * np.array([0.25, 0.5, 0.25])).pvalue > 1e-3


def test_plan_does_what_the_draws_say() -> None:
    plan = rand_augment_plan(draws(500), PAPER, 32, 48)
    assert len(plan) == 2
    for i, layer in enumerate(plan):
        rows = np.concatenate([group.rows.numpy() for group in layer])
        assert len(set(rows)) == len(rows)
        chosen = [[row, name] for row, name in enumerate(layer_names(500, i)) if name]
        assert sorted(rows) == [row for row, _ in chosen]
        kinds = {row: group.kind for group in layer for row in group.rows.tolist()}
        assert all(kinds[row] is OPERATIONS[name][0] for row, name in chosen)


def layer_names(count: int, layer: int) -> list[str]:
    names, rows = list(OPERATIONS), draws(count).reshape(count, 2, DRAWS_PER_LAYER)[:, layer]
    return [names[int(15 * row[0])] if row[1] < 0.5 else "" for row in rows]


@pytest.mark.parametrize(
    ("name", "kind", "column", "scale"),
    [
        ("ShearX", Kind.SLIDE_ROWS, 0, 1.0),
        ("TranslateXRel", Kind.SLIDE_ROWS, 1, 200.0),
        ("ColorIncreasing", Kind.COLOR, 0, 1.0),
        ("ContrastIncreasing", Kind.CONTRAST, 0, 1.0),
        ("SharpnessIncreasing", Kind.SHARPNESS, 0, 1.0),
    ],
)
def test_strengths_are_distributed_as_timms(name: str, kind: Kind, column: int, scale: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    theirs = np.array([arguments[0] for image in timm_draws() for found, arguments in image if found == name])
    groups = [group for layer in rand_augment_plan(draws(), PAPER, 100, 200) for group in layer if group.kind is kind]
    values = np.concatenate([group.arguments[:, column].numpy() for group in groups])
    ours = values[values != 0] / scale
    assert len(ours) > 1500
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


def test_angles_are_distributed_as_timms() -> None:
    stats = pytest.importorskip("scipy.stats")
    theirs = np.array([arguments[0] for image in timm_draws() for found, arguments in image if found == "Rotate"])
    groups = [g for layer in rand_augment_plan(draws(), PAPER, 100, 100) for g in layer if g.kind is Kind.ROTATE]
    matrices = np.concatenate([group.arguments.numpy() for group in groups])
    ours = np.degrees(np.arctan2(matrices[:, 3], matrices[:, 0]))
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


def test_magnitudes_are_normal_and_cut_off() -> None:
    stats = pytest.importorskip("scipy.stats")
    found = magnitudes(draws()[:, 2], PAPER)
    assert found.max() == 10
    assert (found == 10).mean() == pytest.approx(stats.norm.sf(2), abs=4e-3)
    inner = found[found < 10]
    assert stats.kstest(inner, stats.truncnorm(-18, 2, loc=9, scale=0.5).cdf).pvalue > 1e-3
    weak = SimpleNamespace(rand_magnitude=0.1, rand_std=1.0)
    assert magnitudes(np.array([0.0, 0.4]), weak).min() == 0
    assert (magnitudes(draws()[:, 2], SimpleNamespace(rand_magnitude=7.0, rand_std=0.0)) == 7).all()


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_probability_is_that_of_each_layer(probability: float, share: float) -> None:
    config = AugmentConfig(rand_layers=3, rand_probability=probability)
    plan = rand_augment_plan(draws(4000, layers=3), config, 32, 32)
    assert len(plan) == 3
    for layer in plan:
        assert sum(len(group.rows) for group in layer) / 4000 == pytest.approx(share, abs=0.04 * (0 < share < 1))
