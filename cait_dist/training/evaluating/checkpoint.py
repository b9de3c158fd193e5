"""Measure a checkpoint on one process, whatever number of ranks and ZeRO stage it comes from.

The numbers are those that the trainer gets at that step: the same sets in the same view, the same types of parameters
and products, the same count. Neither DeepSpeed nor a process group is needed for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch

from cait_dist.augment.normalize import Normalize
from cait_dist.config import RunConfig
from cait_dist.config.evaluation import EvaluationSet
from cait_dist.evaluation import Answers
from cait_dist.models import Cait
from cait_dist.tracking.code_version import describe_code
from cait_dist.tracking.run_directory import timestamp

from ..parallel import autocast_forward, linear_as_at_stage_3, parameter_dtype, uses_autocast
from ..saving.checkpoint import read_weights
from ..saving.checkpoint_files import Checkpoint, CheckpointError
from ..saving.export import KINDS
from ..starting.initial_model import build_model
from ..starting.plan import image_size_of
from .precisely import evaluation_precision, products_in_fp32
from .record import Question, Result
from .sets import OpenSet, open_set


class Evaluator:
    """Measures checkpoints of one run.

    Args:
        config: of the run
        sets: of images
        weights: kinds of weights, ``raw`` and ``ema``

    Raises:
        DataError: if a set cannot be read
    """

    def __init__(self, config: RunConfig, sets: Sequence[EvaluationSet], weights: Sequence[str]) -> None:
        self._config, self._weights = config, tuple(weights)
        size = image_size_of(config.model)
        self._sets = [open_set(config, chosen, size) for chosen in sets]
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._normalize = Normalize(config.augment.mean, config.augment.std).to(self._device)
        self._model: Cait | None = None
        self._code = describe_code()

    @property
    def questions(self) -> list[Question]:
        """What is asked of every checkpoint, in the order of the answers."""
        return [self._question(chosen, weights) for weights in self._weights for chosen in self._sets]

    def check(self, checkpoint: Checkpoint) -> None:
        """See that every set can be asked of a checkpoint.

        Raises:
            CheckpointError: if the model knows fewer classes than a set
        """
        known = num_classes_of(checkpoint)
        for chosen in self._sets:
            if chosen.truth.num_classes > known:
                raise CheckpointError(
                    f"set '{chosen.name}' {chosen.truth.because}, but the model of {checkpoint.path}"
                    f" distinguishes {known}: leave it out with --set"
                )

    def measure(self, checkpoint: Checkpoint, wanted: Sequence[Question]) -> Iterator[tuple[Result, Answers]]:
        """Answer questions about a checkpoint, each as soon as it is known, and tell what was said about each image.

        Raises:
            CheckpointError: if the checkpoint is damaged, or holds no weights of that kind
            OSError: if it is taken away meanwhile
        """
        if damage := checkpoint.damage():
            raise CheckpointError(f"checkpoint {checkpoint.path} is damaged: {damage}; choose another --step")
        for weights in self._weights:
            sets = [chosen for chosen in self._sets if self._question(chosen, weights) in wanted]
            if sets:
                model = self._loaded(checkpoint, weights)
            for chosen in sets:
                answers = Answers(chosen.num_samples)
                with self._arithmetic():
                    accuracy = chosen.measure(lambda images: model(self._view(images)), _alone, answers)  # noqa: B023
                yield Result(self._question(chosen, weights), accuracy, self._code, timestamp()), answers

    def _question(self, chosen: OpenSet, weights: str) -> Question:
        config = self._config
        return Question(
            set=chosen.name,
            weights=weights,
            data=chosen.digest,
            image_size=chosen.image_size,
            crop_ratio=config.evaluation.crop_ratio,
            precision=evaluation_precision(config),
        )

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        config = self._config
        as_trained = linear_as_at_stage_3() if config.training.zero.stage == 3 else nullcontext()
        with as_trained, products_in_fp32() if config.evaluation.precision == "fp32" else nullcontext():
            yield

    def _view(self, images: torch.Tensor) -> torch.Tensor:
        return self._normalize(images.to(self._device, non_blocking=True))

    def _loaded(self, checkpoint: Checkpoint, weights: str) -> Cait:
        read = read_weights(checkpoint, KINDS[weights])
        if self._model is None:
            self._model = self._build(num_classes_of(checkpoint))
        self._model.load_state_dict(read)
        return self._model

    def _build(self, num_classes: int) -> Cait:
        training = self._config.training.model_copy(update={"precision": evaluation_precision(self._config)})
        model = build_model(self._config.model, num_classes).to(self._device, parameter_dtype(training)).eval()
        if uses_autocast(training):
            autocast_forward(model, self._device)
        return model


def num_classes_of(checkpoint: Checkpoint) -> int:
    """Classes that the model of a checkpoint distinguishes."""
    return int(checkpoint.state["shapes"]["head.weight"][0])


def _alone(values: torch.Tensor) -> torch.Tensor:
    return values
