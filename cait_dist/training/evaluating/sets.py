"""The evaluation sets of a configuration, opened.

Who trains and who evaluates a checkpoint later open and measure them here, so that both get the same numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import torch

from cait_dist.config import RunConfig
from cait_dist.config.evaluation import EvaluationSet
from cait_dist.data.loader import EvalLoader
from cait_dist.data.reader_ffcv import FfcvReader
from cait_dist.data.reader_webdataset import WebDatasetReader, open_split
from cait_dist.data.true_labels import read_real_labels, read_subset
from cait_dist.evaluation import Accuracy, Answers, Judge, OneLabel, SeveralLabels, count_correct

TensorFunction = Callable[[torch.Tensor], torch.Tensor]
Reader = WebDatasetReader | FfcvReader


@dataclass(frozen=True)
class Truth:
    """What is right in a set.

    Attributes:
        judge: says it.
        num_classes: that the model must distinguish to be asked.
        because: of what in the set, for messages.
        digest: identity of the images and of what is right about them.
    """

    judge: Judge
    num_classes: int
    because: str
    digest: str


@dataclass(frozen=True)
class OpenSet:
    """One rank's part of a set.

    Attributes:
        name: prefix of its metrics.
        loader: reads this rank's part.
        num_samples: images of the whole set.
        truth: what is right in it.
        image_size: side of the images in pixels.
    """

    name: str
    loader: EvalLoader
    num_samples: int
    truth: Truth
    image_size: int

    @property
    def digest(self) -> str:
        """Identity of the images and of what is right about them."""
        return self.truth.digest

    def measure(self, forward: TensorFunction, reduce: TensorFunction, answers: Answers | None = None) -> Accuracy:
        """Count over the whole set. Collective.

        Args:
            forward: uint8 images (b, 3, H, W) on the host → logits (b, classes)
            reduce: sums a tensor over all ranks
            answers: filled with what the model says about each image
        """
        spare = torch.zeros((1, 3, self.image_size, self.image_size), dtype=torch.uint8)
        rounds, judge = self.loader.rounds, self.truth.judge
        return count_correct(forward, self.loader, rounds, self.num_samples, spare, reduce, answers, judge)


def open_set(config: RunConfig, chosen: EvaluationSet, image_size: int, rank: int = 0, world_size: int = 1) -> OpenSet:
    """Open one set as the configuration says.

    Raises:
        DataError: if there is no such split, or it or what says what is right in it cannot be read
    """
    reader, truth = open_truth(config, chosen)
    loader = EvalLoader(
        reader,
        image_size=image_size,
        crop_ratio=config.evaluation.crop_ratio,
        batch=config.evaluation.batch,
        rank=rank,
        world_size=world_size,
        workers=config.data.workers,
    )
    return OpenSet(chosen.name, loader, reader.num_samples, truth, image_size)


def open_truth(config: RunConfig, chosen: EvaluationSet) -> tuple[Reader, Truth]:
    """The images of a set and what is right about them; no image is read.

    Raises:
        DataError: if they cannot be had, or do not belong together
    """
    place = chosen.path or config.data.path
    reader = open_split(place, chosen.split, config.data.format, config.data.remote)
    classes, has_classes = reader.num_classes, f"has {reader.num_classes} classes"
    if chosen.kind == "real":
        labels = read_real_labels(place, chosen.split, reader.num_samples, classes, config.data.remote)
        return reader, Truth(SeveralLabels(labels), classes, has_classes, _digest(reader, "real", labels))
    if chosen.subset is not None:
        outputs = read_subset(chosen.subset, classes)
        because = f"asks of output {max(outputs)} (in {chosen.subset}, counted from 0)"
        return reader, Truth(OneLabel(outputs), max(outputs) + 1, because, _digest(reader, "subset", outputs))
    return reader, Truth(OneLabel(), classes, has_classes, reader.digest)


def _digest(reader: Reader, kind: str, content: object) -> str:
    """Another one than that of the images, as the same images with other labels are another set."""
    return hashlib.sha256(json.dumps([reader.digest, kind, content]).encode()).hexdigest()
