"""Where images come from, and how it is told what a folder holds.

A *source* has splits (train, val, …); a split is an ordered list of names with labels, and the source turns a name
into the bytes of an image file. The list alone decides what is written where, so it must come out the same on every
machine: names are sorted, and whatever is drawn is drawn from a frozen generator with a seed.
"""

from __future__ import annotations

from pathlib import Path

from .cars import is_cars, open_cars
from .cifar import is_cifar, open_cifar
from .digits import DigitsSource
from .errors import DataPrepError
from .flowers import is_flowers, open_flowers
from .folder import FolderSource
from .ilsvrc import is_ilsvrc, open_ilsvrc
from .inaturalist import is_inaturalist, open_inaturalist
from .parquet import open_parquet
from .split import Source, Split
from .split_names import find_shards
from .webdataset_source import open_tars

__all__ = ["DigitsSource", "FolderSource", "Source", "Split", "open_source"]

SOURCES = """a source is one of
  a folder of images       ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg, or ROOT/CLASS/*.jpg
  the ILSVRC 2012 archives a folder with ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz
  CIFAR-10 or CIFAR-100    a folder with cifar-10-python.tar.gz, cifar-100-binary.tar.gz, … or what they unpack to
  Oxford Flowers-102       a folder with 102flowers.tgz, imagelabels.mat, setid.mat
  Stanford Cars            a folder with car_ims.tgz, cars_annos.mat; or cars_train.tgz, cars_test.tgz, car_devkit.tgz
  iNaturalist 2018, 2019   a folder with train_val2018.tar, train2018.json, val2018.json
  WebDataset tars          a folder with *.tar, or train/*.tar and val/*.tar, holding KEY.jpg and KEY.cls
  parquet files            a folder with train-*.parquet and validation-*.parquet, as the Hugging Face hub has them
  digits                   that word: scikit-learn's 1,797 handwritten digits"""

_PUBLISHED = (
    (is_ilsvrc, open_ilsvrc),
    (is_cifar, open_cifar),
    (is_flowers, open_flowers),
    (is_cars, open_cars),
    (is_inaturalist, open_inaturalist),
)
"""Data sets whose archives have names of their own: how a folder of them is told, and what opens it."""


def open_source(
    what: str | Path, *, image_size: int = 32, val_share: float = 0.0, seed: int = 0, split: str = "train"
) -> Source:
    """The source that a user means; what a folder holds is told by its content.

    Args:
        what: the word ``digits``, or a folder.
        image_size: for digits: side of the written images in pixels.
        val_share: for folders: share of train to set aside as val.
        seed: chooses what is set aside.
        split: for folders with one split only: its name.

    Raises:
        DataPrepError: if it is not a source, or its parts do not fit together.
    """
    root = Path(what)
    published = [opener for is_in, opener in _PUBLISHED if is_in(root)]
    if str(what) == "digits" or published:
        if split != "train":
            raise DataPrepError(f"{what} has splits with names of their own; leave out --split {split}")
        if len(published) > 1:
            raise DataPrepError(f"{what}: holds several data sets; put each into a folder of its own")
        return DigitsSource(image_size, seed) if str(what) == "digits" else published[0](root, val_share, seed)
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "no such folder"
        raise DataPrepError(f"{what}: {problem}; a source is a folder of images or archives, or the word digits")
    tars, parquets = find_shards(root, "tar"), find_shards(root, "parquet")
    if tars and parquets:
        raise DataPrepError(f"{what}: holds both tars and parquet files; put one kind elsewhere")
    if tars:
        return open_tars(root, val_share, seed, split)
    if parquets:
        return open_parquet(root, val_share, seed, split)
    if not any(entry.is_dir() for entry in root.iterdir()):
        raise DataPrepError(f"{what}: holds neither folders of images nor shards; {SOURCES}")
    return FolderSource(root, val_share, seed, split)
