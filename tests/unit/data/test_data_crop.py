import io
import random
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from image_folders import encode, picture
from PIL import Image

from cait_dist.config.augment import AugmentConfig
from cait_dist.data.crop import (
    CROP_DRAWS,
    FLIP_DRAWS,
    Box,
    eval_view,
    random_resized_crop_box,
    train_view,
    view_uniforms,
)
from cait_dist.data.randomness import Stream, uniform

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def timm_data() -> Any:
    """timm.data, the reference; torchvision's shape functions may not know the operators of a CPU build of torch."""
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    return pytest.importorskip("timm.data", reason="timm, the reference, is not installed")


def boxes(width: int, height: int, count: int, scale=SCALE, ratio=RATIO) -> np.ndarray:
    rows = uniform(0, Stream.CROP, np.arange(count), CROP_DRAWS)
    return np.array([random_resized_crop_box(width, height, row, scale, ratio) for row in rows])


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (64, 300), (7, 5), (1, 1), (1, 400)])
def test_boxes_lie_within_the_image(width: int, height: int) -> None:
    left, top, box_width, box_height = boxes(width, height, 500).T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (box_width >= 1).all()
    assert (box_height >= 1).all()
    assert (left + box_width <= width).all()
    assert (top + box_height <= height).all()


@pytest.mark.parametrize(("width", "height"), [(500, 375), (64, 64), (500, 100)])
def test_boxes_follow_the_law_of_timm(width: int, height: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    transforms = timm_data().transforms
    count = 3000
    reference = transforms.RandomResizedCropAndInterpolation(224, scale=SCALE, ratio=RATIO)
    image = Image.new("RGB", (width, height))
    random.seed(0)
    theirs = np.array([reference.get_params(image, SCALE, RATIO) for _ in range(count)])[:, [1, 0, 3, 2]]
    ours = boxes(width, height, count)
    for function in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 2] / b[:, 3],
        lambda b: b[:, 0] / np.maximum(width - b[:, 2], 1),
        lambda b: b[:, 1] / np.maximum(height - b[:, 3], 1),
    ):
        # The test is fixed on our side and seeded on theirs, so a p-value is either always fine or never.
        assert stats.ks_2samp(function(ours), function(theirs)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("size", "expected"), [((100, 1000), Box(0, 433, 100, 133)), ((1000, 100), Box(433, 0, 133, 100))]
)
def test_hopeless_images_give_their_centre(size: tuple[int, int], expected: Box) -> None:
    # The whole area is asked for, in a ratio that such a strip does not have.
    assert random_resized_crop_box(*size, np.zeros(CROP_DRAWS), (1.0, 1.0), RATIO) == expected


@pytest.mark.parametrize("image_size", [32, 150])
def test_training_view_is_cut_resize_flip_as_by_pillow(image_size: int) -> None:
    encoded = encode(picture(1, 90, 70))
    config = AugmentConfig()
    flips, differences = 0, []
    for row in view_uniforms(0, np.arange(20)):
        box = random_resized_crop_box(90, 70, row, config.crop_scale, config.crop_ratio)
        with Image.open(io.BytesIO(encoded)) as image:
            part = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
            expected = np.asarray(part.resize((image_size, image_size), Image.Resampling.BICUBIC))
        if row[CROP_DRAWS] < 0.5:
            flips += 1
            expected = expected[:, ::-1]
        difference = np.abs(
            train_view(encoded, image_size, row, config).permute(1, 2, 0).numpy() - expected.astype(int)
        )
        differences.append(difference)
    # Both round their filters to fixed-point numbers, in different ways.
    assert max(d.max() for d in differences) <= 2
    assert np.mean([(d > 0).mean() for d in differences]) < 0.03
    assert 3 < flips < 17


def test_flip_can_be_switched_off() -> None:
    encoded, row = encode(picture(2)), np.zeros(CROP_DRAWS + FLIP_DRAWS)
    never, always = (train_view(encoded, 16, row, AugmentConfig(hflip=p)) for p in (0.0, 1.0))
    np.testing.assert_array_equal(never, always.flip(2))


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (333, 500), (64, 64), (57, 99), (224, 230)])
@pytest.mark.parametrize(("image_size", "crop_ratio"), [(224, 0.875), (64, 1.0), (48, 0.9)])
def test_evaluation_view_is_that_of_timm(size: tuple[int, int], image_size: int, crop_ratio: float) -> None:
    encoded = encode(picture(3, *size))
    transform = timm_data().create_transform(
        (3, image_size, image_size), interpolation="bicubic", crop_pct=crop_ratio, mean=(0, 0, 0), std=(1, 1, 1)
    )
    with Image.open(io.BytesIO(encoded)) as image:
        expected = np.rint(transform(image).numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
    np.testing.assert_array_equal(eval_view(encoded, image_size, crop_ratio).permute(1, 2, 0), expected)


@pytest.mark.parametrize("image_size", [16, 60, 128])
def test_training_view_is_what_interpolate_gives_then_flipped_wherever_it_is_put(image_size: int) -> None:
    pixels, config = np.array(picture(4, 97, 81)), AugmentConfig()
    places = torch.zeros((20, image_size, image_size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    for row, place in zip(view_uniforms(1, np.arange(20)), places, strict=True):
        box = random_resized_crop_box(97, 81, row, config.crop_scale, config.crop_ratio)
        part = torch.from_numpy(pixels)[box.top : box.top + box.height, box.left : box.left + box.width]
        expected = torch.nn.functional.interpolate(
            part.permute(2, 0, 1)[None], (image_size, image_size), mode="bicubic", antialias=True
        )[0]
        view = train_view(pixels, image_size, row, config)
        assert torch.equal(view, expected.flip(2) if row[CROP_DRAWS] < config.hflip else expected)
        assert view.stride() == place.stride()  # channels innermost, as the network's first layer likes them
        train_view(pixels, image_size, row, config, out=place)
        assert torch.equal(place, view)
