"""The input pipelines that are compared, each an endless iterator over uint8 batches: ours, and what else is in use.

All do the same work on the same bytes: decode, cut out a random part (0.08 to 1 of the area, 3/4 to 4/3 of the ratio),
resize it, flip half of them, collate. Each has one worker: a process, or FFCV's thread. Where a pipeline lets its user
choose how to decode and resize, it does so exactly (libjpeg's exact transforms, an antialiased bicubic filter); FFCV
does not, and spares itself some work: fast transforms, averages over areas.

Every random crop is that of `cait_dist.data.crop`, except where the pipeline brings one of its own (FFCV, torchvision).
"""

from __future__ import annotations

import io
import itertools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, default_collate

from cait_dist.config.augment import AugmentConfig
from cait_dist.data.batches import Reader
from cait_dist.data.crop import CROP_DRAWS, random_resized_crop_box, train_view, view_uniforms
from cait_dist.data.decode import Pixels
from cait_dist.data.loader import TrainLoader
from cait_dist.data.loader_ffcv import FfcvTrainLoader
from cait_dist.data.order import SampleOrder
from cait_dist.data.reader_ffcv import FfcvReader
from cait_dist.data.reader_webdataset import WebDatasetReader

from .images import DataSet

AUGMENT = AugmentConfig(crop_scale=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3), hflip=0.5)
BATCH = 64
AHEAD = 2
"""Batches that are kept ready, by all alike."""
_PASSES = 1000
Batches = Iterator[Tensor]


class Pipeline(NamedTuple):
    """A row of the comparison."""

    title: str
    open: Callable[[DataSet, int], Batches]
    """From the data and the side of the images in pixels."""
    ours: bool = False


def _ours(data: DataSet, size: int, *, reader: Callable[[Any], Any], loader: Callable[..., Any]) -> Batches:
    source = reader(data.shards)
    settings = {"image_size": size, "seed": 0, "global_batch": BATCH, "micro_batch": BATCH, "reuse_memory": True}
    batches = loader(source, SampleOrder(source.num_samples, 0), AUGMENT, workers=1, prefetch=AHEAD, **settings)
    return (batch.images for batch in batches)


def _tar(data: DataSet, size: int) -> Batches:
    return _ours(data, size, reader=WebDatasetReader, loader=TrainLoader)


def _beton(data: DataSet, size: int) -> Batches:
    return _ours(data, size, reader=FfcvReader, loader=TrainLoader)


def _beton_by_ffcv(data: DataSet, size: int) -> Batches:
    return _ours(data, size, reader=FfcvReader, loader=FfcvTrainLoader)


def _bare_loop(data: DataSet, size: int) -> Batches:
    """Decode and crop, no more: images are in memory, and there is one batch, filled again and again."""
    reader: Reader = WebDatasetReader(data.shards)
    images = [reader.read(index) for index in range(reader.num_samples)]
    batch = torch.empty((BATCH, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    for first in itertools.count(0, BATCH):
        positions = np.arange(first, first + BATCH)
        uniforms = view_uniforms(0, positions)
        for row, position in enumerate(positions):
            train_view(images[position % len(images)], size, uniforms[row], AUGMENT, out=batch[row])
        yield batch


def _webdataset(data: DataSet, size: int, *, decode: Callable[[bytes], Image.Image | Pixels]) -> Batches:
    import webdataset  # noqa: PLC0415

    def view(sample: tuple[bytes, bytes]) -> tuple[Tensor, int]:
        return _pillow_view(decode(sample[0]), size), int(sample[1])

    samples = webdataset.WebDataset(data.tars(), shardshuffle=len(data.tars()), seed=0).repeat()
    samples = samples.shuffle(256).to_tuple("jpg", "cls").map(view).batched(BATCH, collation_fn=default_collate)
    return (images for images, _ in DataLoader(samples, batch_size=None, num_workers=1, prefetch_factor=AHEAD))


def _webdataset_pillow(data: DataSet, size: int) -> Batches:
    def decode(encoded: bytes) -> Image.Image:
        return Image.open(io.BytesIO(encoded)).convert("RGB")

    return _webdataset(data, size, decode=decode)


def _webdataset_simplejpeg(data: DataSet, size: int) -> Batches:
    import simplejpeg  # noqa: PLC0415

    return _webdataset(data, size, decode=lambda encoded: simplejpeg.decode_jpeg(encoded, colorspace="RGB"))


def _pillow_view(image: Image.Image | Pixels, size: int) -> Tensor:
    """Crop, resize and flip; pixels are cut before Pillow sees them, which spares it a copy of the whole."""
    width, height = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
    draws = np.random.rand(CROP_DRAWS + 1)
    box = random_resized_crop_box(width, height, draws[:CROP_DRAWS], AUGMENT.crop_scale, AUGMENT.crop_ratio)
    right, bottom = box.left + box.width, box.top + box.height
    if isinstance(image, Image.Image):
        part = image.crop((box.left, box.top, right, bottom))
    else:
        part = Image.fromarray(image[box.top : bottom, box.left : right])
    view = part.resize((size, size), Image.Resampling.BICUBIC)
    if draws[CROP_DRAWS] < AUGMENT.hflip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(view)).permute(2, 0, 1)


def _image_folder(data: DataSet, size: int) -> Batches:
    """As in torchvision's examples, but for the conversion to floating point."""
    # torchvision registers operators on import that a CPU build of torch may lack; nothing here needs them.
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    from torchvision import datasets, transforms  # noqa: PLC0415

    crop = transforms.RandomResizedCrop(size, interpolation=transforms.InterpolationMode.BICUBIC)
    view = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.PILToTensor()])
    files = datasets.ImageFolder(str(data.folder), view)
    endless = RandomSampler(files, num_samples=_PASSES * len(files))
    loader = DataLoader(files, BATCH, sampler=endless, num_workers=1, prefetch_factor=AHEAD)
    return (images for images, _ in loader)


def _stock_ffcv(data: DataSet, size: int) -> Batches:
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder  # noqa: PLC0415
    from ffcv.loader import Loader, OrderOption  # noqa: PLC0415
    from ffcv.transforms import RandomHorizontalFlip, ToTensor  # noqa: PLC0415

    crop = RandomResizedCropRGBImageDecoder((size, size), AUGMENT.crop_scale, AUGMENT.crop_ratio)
    loader = Loader(
        str(data.beton),
        batch_size=BATCH,
        num_workers=1,
        os_cache=True,
        order=OrderOption.RANDOM,
        indices=np.tile(np.arange(data.images), _PASSES),  # one epoch without an end, as for everybody
        batches_ahead=AHEAD,
        pipelines={"image": [crop, RandomHorizontalFlip(), ToTensor()], "label": None},
    )
    return (batch[0] for batch in loader)


PIPELINES = {
    "tar": Pipeline("cait-dist, tar", _tar, ours=True),
    "beton": Pipeline("cait-dist, beton", _beton, ours=True),
    "beton by FFCV": Pipeline("cait-dist, beton, FFCV's decoder", _beton_by_ffcv, ours=True),
    "FFCV": Pipeline("FFCV, stock", _stock_ffcv),
    "webdataset simplejpeg": Pipeline("webdataset, simplejpeg + Pillow", _webdataset_simplejpeg),
    "webdataset Pillow": Pipeline("webdataset, Pillow", _webdataset_pillow),
    "ImageFolder": Pipeline("ImageFolder, torchvision + Pillow", _image_folder),
    "bare loop": Pipeline("bare loop: decode and crop alone", _bare_loop, ours=True),
}
"""The first is what the others are compared with."""
