"""The loss of a fixed small batch, kept with every checkpoint: whether what was loaded computes what was saved.

Checksums tell that the bytes are those that were written. That the weights went back to where they came from, on
another number of ranks or at another stage of ZeRO, in a newer version of the code, only the model itself can tell. The
batch is noise from a fixed seed, so nothing has to be read for it, and every rank computes the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from .checkpoint_files import Checkpoint, CheckpointError

IMAGES = 4
SEED = 20_210_331
"""Whatever it is, checkpoints hold losses of its batch."""
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}
"""Relative, by ``training.precision``: other devices and kernels add up in another order, other weights are far off."""
STATE_KEY = "probe_loss"


class LossProbe:
    """Computes the loss of the fixed batch.

    Args:
        engine: of DeepSpeed
        view: from uint8 images to what the model takes, on its device
        image_size: side in pixels
        num_classes: of the model
        precision: ``training.precision``
    """

    def __init__(
        self,
        engine: Any,
        view: Callable[[torch.Tensor], torch.Tensor],
        image_size: int,
        num_classes: int,
        precision: str,
    ) -> None:
        noise = torch.Generator().manual_seed(SEED)  # its own: the training's random numbers stay what they were
        shape = (IMAGES, 3, image_size, image_size)
        self._engine, self._view, self._precision = engine, view, precision
        self._images = torch.randint(256, shape, generator=noise, dtype=torch.uint8)
        self._labels = torch.randint(num_classes, (IMAGES,), generator=noise)

    @torch.no_grad()
    def loss(self) -> float:
        """With the weights as they are, without anything random. Collective at stage 3."""
        training = self._engine.module.training
        self._engine.eval()
        logits = self._engine(self._view(self._images)).float()
        self._engine.train(training)
        return float(cross_entropy(logits, self._labels.to(logits.device)))

    def check(self, checkpoint: Checkpoint) -> None:
        """Hold the model against what its checkpoint says; older checkpoints say nothing. Collective at stage 3.

        Raises:
            CheckpointError: if it computes something else
        """
        kept = checkpoint.state.get(STATE_KEY)
        if kept is None:
            return
        found, tolerance = self.loss(), TOLERANCE[self._precision]
        # What was not finite when it was saved cannot be compared.
        if math.isfinite(float(kept)) and not abs(found - float(kept)) <= tolerance * max(abs(float(kept)), 1.0):
            raise CheckpointError(
                f"{checkpoint.path} does not compute what was saved: the loss of its fixed batch was {float(kept):.6g}"
                f" and is {found:.6g} now; go on with the code that wrote it, or from an older step (--resume STEP)"
            )
