"""The evaluation sets of a configuration, opened.

Who trains and who evaluates a checkpoint later open and measure them here, so that both get the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cait_dist.config import RunConfig
from cait_dist.config.evaluation import EvaluationSet
from cait_dist.data.loader import EvalLoader
from cait_dist.data.reader_webdataset import open_split
from cait_dist.evaluation import Accuracy, Answers, count_correct

TensorFunction = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class OpenSet:
    """One rank's part of a set.

    Attributes:
        name: prefix of its metrics.
        loader: reads this rank's part.
        num_samples: images of the whole set.
        num_classes: that its labels distinguish.
        digest: identity of its content.
        image_size: side of the images in pixels.
    """

    name: str
    loader: EvalLoader
    num_samples: int
    num_classes: int
    digest: str
    image_size: int

    def measure(self, forward: TensorFunction, reduce: TensorFunction, answers: Answers | None = None) -> Accuracy:
        """Count over the whole set. Collective.

        Args:
            forward: uint8 images (b, 3, H, W) on the host → logits (b, classes)
            reduce: sums a tensor over all ranks
            answers: filled with what the model says about each image
        """
        spare = torch.zeros((1, 3, self.image_size, self.image_size), dtype=torch.uint8)
        return count_correct(forward, self.loader, self.loader.rounds, self.num_samples, spare, reduce, answers)


def open_set(config: RunConfig, chosen: EvaluationSet, image_size: int, rank: int = 0, world_size: int = 1) -> OpenSet:
    """Open one set as the configuration says.

    Raises:
        DataError: if there is no such split, or it cannot be read
    """
    reader = open_split(chosen.path or config.data.path, chosen.split, config.data.format, config.data.remote)
    loader = EvalLoader(
        reader,
        image_size=image_size,
        crop_ratio=config.evaluation.crop_ratio,
        batch=config.evaluation.batch,
        rank=rank,
        world_size=world_size,
        workers=config.data.workers,
    )
    return OpenSet(chosen.name, loader, reader.num_samples, reader.num_classes, reader.digest, image_size)
