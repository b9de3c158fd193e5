"""What a model said about every single image of a set.

Two models with the same accuracy may be wrong about different images, and two with nearly the same are told apart far
better by the images about which they disagree than by two percentages. So the answers of a run's last evaluation are
kept, ``runs/NAME/predictions/SET-WEIGHTS.npz``, and those of ``cait evaluate``,
``runs/NAME/evaluations/step-XXXXXXXX/SET-WEIGHTS.npz``.

An image that does not count is not in the file. Where an image has several labels, its label in the file is the one
that was predicted, if any was, else the first: so an answer is right just where the label is what was predicted.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .judges import Verdict

LABEL, PREDICTED, LOSS, COUNTED = range(4)


class Answers:
    """Label, most likely class and loss by image; each rank notes its own, `merge` brings them together.

    Args:
        total: images of the set

    Attributes:
        table: (total, 4) float64; rows of images that do not count are zero
    """

    def __init__(self, total: int) -> None:
        self.table = torch.zeros((total, 4), dtype=torch.float64)

    def note(self, ids: np.ndarray, verdict: Verdict) -> None:
        """Keep the answers about some images.

        Args:
            ids: (b,) places in the set
            verdict: about them
        """
        counted = verdict.counted.double()
        columns = [verdict.labels.double(), verdict.predicted.double(), verdict.losses.double(), counted]
        self.table[torch.from_numpy(ids)] = (torch.stack(columns, 1) * counted[:, None]).cpu()

    def merge(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Add the ranks' parts, which do not overlap. Collective."""
        self.table = reduce(self.table)

    def save(self, path: Path, step: int, digest: str, view: Mapping[str, str | int | float] | None = None) -> None:
        """Replace the file.

        Args:
            path: of the ``.npz`` file; its folder is made
            step: of the weights
            digest: identity of the set and of what is right in it
            view: what else decided the answers, kept under these names
        """
        counted = self.table[:, COUNTED] > 0
        table = self.table[counted].numpy()
        columns: dict[str, Any] = {
            "sample": counted.nonzero()[:, 0].numpy().astype(np.int32),
            "label": table[:, LABEL].astype(np.int32),
            "predicted": table[:, PREDICTED].astype(np.int32),
            "loss": table[:, LOSS].astype(np.float32),
            "step": np.int64(step),
            "digest": np.str_(digest),
        }
        _replace(path, {**columns, **(view or {})})


def _replace(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under a name of its own: a job and a user may be evaluating the same run.
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez_compressed(file, **columns)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(aside).unlink()
        raise
