"""A tiny CaiT in which every part matters, and images for it."""

from pathlib import Path
from typing import Any

import torch

from cait_dist.analysis import Subject, subject_of_file
from cait_dist.models import Cait, create_model
from cait_dist.models.weights import save_weights

SHAPE: dict[str, Any] = {
    "image_size": 12,
    "patch_size": 4,
    "embed_dim": 12,
    "depth": 3,
    "num_heads": 3,
    "num_classes": 5,
}


def tiny_model(**settings: Any) -> Cait:
    """Weights of order one, LayerScale too, of either sign."""
    torch.manual_seed(5)
    model = create_model("cait_xxs24_224", **{**SHAPE, "layer_scale_init": 0.5, **settings})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(6))


def tiny_subject(folder: Path, **settings: Any) -> Subject:
    """The tiny model as a file of weights."""
    save_weights(tiny_model(**settings), folder / "tiny.safetensors")
    return subject_of_file(folder / "tiny.safetensors")
