"""Draws docs/images/augmentation.png: what each stage of the augmentation does to scikit-learn's two photos.

    python scripts/contact_sheet.py docs/images/augmentation.png

Everything is computed by the functions that training uses; random numbers are looked up, so the picture is always the
same.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images
from torch import Tensor

from cait_dist.augment.operations import apply_operations, make_layer
from cait_dist.augment.pipeline import BatchAugmentation, Purpose
from cait_dist.augment.randaugment import OPERATIONS
from cait_dist.config.augment import AugmentConfig
from cait_dist.data.crop import train_view, view_uniforms
from cait_dist.data.randomness import Stream, uniform

SIZE, COLUMNS, SEED = 116, 8, 2
GAP, TITLE, LABEL, MARGIN = 4, 26, 15, 12
QUIET = AugmentConfig(mixup=0, cutmix=0)
PAPER = AugmentConfig(rand_layers=2, erase_probability=0.25, mix_group=2)

Row = tuple[str, list[str], Tensor]
"""Title, a label for each image, images ``(8, 3, SIZE, SIZE)`` uint8."""


def main() -> None:
    """Compute the rows, draw them, write the picture."""
    rows = list(all_rows([np.asarray(photo) for photo in load_sample_images().images]))
    sheet = Image.new(
        "RGB", (2 * MARGIN + COLUMNS * (SIZE + GAP) - GAP, 2 * MARGIN + sum(map(height_of, rows))), "white"
    )
    top = MARGIN
    for row in rows:
        draw_row(sheet, top, row)
        top += height_of(row)
    # 256 colours, dithered, are enough to see what happens, and a third of the bytes.
    colours = sheet.quantize(256)
    sheet.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG).save(sys.argv[1], optimize=True)
    print(f"{sys.argv[1]}: {Path(sys.argv[1]).stat().st_size:,} bytes")


def all_rows(photos: list[np.ndarray]) -> Iterator[Row]:
    """The sheet from top to bottom."""
    both = torch.stack([centre(photo) for photo in photos])
    views = torch.stack([view(photos[i % 2], 24 + i) for i in range(6)])
    yield "Reader: random resized crop and flip", ["photo", "photo", *["crop"] * 6], torch.cat((both, views))
    names, images = rand_augment(both[:1])
    title = "RandAugment: the fifteen operations at magnitude 9; two are drawn, each is applied with probability 1/2"
    yield title, names[:8], images[:8]
    yield "", names[8:], images[8:]
    yield erasing_and_mixing(both.repeat(4, 1, 1, 1))
    together = torch.stack([view(photos[i % 2], 40 + i) for i in range(8)])
    images, targets = augmented(PAPER, together, 40)
    labels = [f"{share[0]:.2f} temple" for share in targets]
    yield "All together, as the network sees eight neighbours of the stream", labels, images


def rand_augment(image: Tensor) -> tuple[list[str], Tensor]:
    """The image and what each operation makes of it at magnitude 9, in its positive direction."""
    images = image.repeat(1 + len(OPERATIONS), 1, 1, 1)
    parts = []
    for row, (kind, arguments) in enumerate(OPERATIONS.values(), start=1):
        parts.append((kind, np.array([row]), arguments(np.array([0.9]), np.array([1.0]), SIZE, SIZE)))
    fill = (255 * torch.tensor(QUIET.mean)).round().to(torch.uint8)
    return ["before", *OPERATIONS], apply_operations(images, [make_layer(parts)], fill)


def erasing_and_mixing(images: Tensor) -> Row:
    """Two erased, two blended by mixup, four by cutmix."""
    erased, _ = augmented(QUIET.model_copy(update={"erase_probability": 1.0}), images, 20)
    mixed, lam = augmented(QUIET.model_copy(update={"mixup": 0.8, "mix_group": 2}), images, 30)
    cut, kept = augmented(QUIET.model_copy(update={"cutmix": 1.0, "mix_group": 2}), images, 60)
    labels = ["erased"] * 2
    labels += [f"mixup, {share[0]:.2f} temple" for share in lam[:2]]
    labels += [f"cutmix, {share[0]:.2f} temple" for share in kept[:4]]
    return "Random erasing; mixup and cutmix", labels, torch.cat((erased[:2], mixed[:2], cut[:4]))


def augmented(config: AugmentConfig, images: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Images that went through the pipeline, as bytes again, and their targets."""
    config = config.model_copy(update={"label_smoothing": 0.0})
    labels = torch.arange(len(images)) % 2
    found, targets = BatchAugmentation(config, 2, look_up)(images, labels, np.arange(start, start + len(images)))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    return ((found * std + mean) * 255).round().clamp(0, 255).to(torch.uint8), targets


def look_up(purpose: Purpose, positions: np.ndarray, draws: int) -> np.ndarray:
    """Random numbers as the training step looks them up."""
    return uniform(SEED, Stream[purpose], positions, draws)


def view(photo: np.ndarray, position: int) -> Tensor:
    """A training view, as the reader makes it."""
    return train_view(photo, SIZE, view_uniforms(SEED, np.array([position]))[0], QUIET)


def centre(photo: np.ndarray) -> Tensor:
    """The central square."""
    side = min(photo.shape[:2])
    top, left = ((length - side) // 2 for length in photo.shape[:2])
    square = Image.fromarray(photo[top : top + side, left : left + side]).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def height_of(row: Row) -> int:
    """Pixels of a row with its title, if it has one."""
    return (TITLE if row[0] else 0) + SIZE + LABEL + GAP


def draw_row(sheet: Image.Image, top: int, row: Row) -> None:
    """Draw the title, the images, and a label under each."""
    title, labels, images = row
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((MARGIN, top + 6), title, "black", ImageFont.load_default(15))
        top += TITLE
    for i, (label, image) in enumerate(zip(labels, images, strict=True)):
        left = MARGIN + i * (SIZE + GAP)
        sheet.paste(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), (left, top))
        draw.text((left, top + SIZE + 1), label, "#333333", ImageFont.load_default(11))


if __name__ == "__main__":
    main()
