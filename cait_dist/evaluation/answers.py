"""What a model said about every single image of a set.

Two models with the same accuracy may be wrong about different images, and two with nearly the same are told apart far
better by the images about which they disagree than by two percentages. So the answers of a run's last evaluation are
kept: ``runs/NAME/predictions/SET-WEIGHTS.npz``.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

LABEL, PREDICTED, LOSS = range(3)


class Answers:
    """Label, most likely class and loss by image; each rank notes its own, `merge` brings them together.

    Args:
        total: images of the set

    Attributes:
        table: (total, 3) float64
    """

    def __init__(self, total: int) -> None:
        self.table = torch.zeros((total, 3), dtype=torch.float64)

    def note(self, ids: np.ndarray, labels: torch.Tensor, predicted: torch.Tensor, losses: torch.Tensor) -> None:
        """Keep the answers about some images.

        Args:
            ids: (b,) places in the set
            labels: (b,) true classes
            predicted: (b,) most likely classes
            losses: (b,) cross-entropies
        """
        self.table[torch.from_numpy(ids)] = torch.stack([labels.double(), predicted.double(), losses.double()], 1).cpu()

    def merge(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Add the ranks' parts, which do not overlap. Collective."""
        self.table = reduce(self.table)

    def save(self, path: Path, step: int, digest: str) -> None:
        """Replace the file.

        Args:
            path: of the ``.npz`` file; its folder is made
            step: of the weights
            digest: identity of the set
        """
        path.parent.mkdir(exist_ok=True)
        aside = path.with_name(f"{path.name}.new")
        table = self.table.numpy()
        with aside.open("wb") as file:
            np.savez_compressed(
                file,
                sample=np.arange(len(table), dtype=np.int32),
                label=table[:, LABEL].astype(np.int32),
                predicted=table[:, PREDICTED].astype(np.int32),
                loss=table[:, LOSS].astype(np.float32),
                step=np.int64(step),
                digest=np.str_(digest),
            )
        aside.replace(path)
