"""Weights on disk: published files in, ours out, both under the names that timm and deit use where they can.

Three kinds of file are read. timm and this project write ``.safetensors`` with plain names. The authors (deit) publish
``.pth`` with the state dict under ``model`` and every name prefixed ``module.``. Other ``.pth`` may hold the state dict
itself. What happens to the tensors is the same for all:

- the position embedding is resized if the model takes images of another resolution;
- the head is dropped if it has another number of classes, and the report says so;
- anything else that does not fit is an error that names what does not.

timm and deit know CaiT, and the plain vision transformers that the paper compares it with; other variants are written
for this project alone, on request.

How a file is read that anybody may have made is told in ``weight_files``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from .architecture import Architecture
from .foreign import refuse_foreign
from .layers import stream_dtype
from .weight_files import WeightsError, read_state_dict

_PREFIX = "module."
_SUFFIX_OF_FORMAT = {"timm": ".safetensors", "deit": ".pth", "own": ".safetensors"}


@dataclass(frozen=True)
class WeightsReport:
    """What loading a file of weights did.

    Attributes:
        path: The file.
        loaded: Number of tensors taken from it.
        resized_pos_embed: (side in the file, side in the model) of the patch grid, if it had to be resized.
        dropped_head: (classes in the file, classes in the model), if the head was left as it was initialised.
    """

    path: Path
    loaded: int
    resized_pos_embed: tuple[int, int] | None = None
    dropped_head: tuple[int, int] | None = None

    def __str__(self) -> str:
        parts = [f"{self.loaded} tensors from {self.path}"]
        if self.resized_pos_embed:
            parts.append("position embedding resized from {0}x{0} to {1}x{1} patches".format(*self.resized_pos_embed))
        if self.dropped_head:
            parts.append("head NOT loaded: {} classes in the file, {} in the model".format(*self.dropped_head))
        return "; ".join(parts)


def load_weights(model: nn.Module, path: str | Path, *, strict_head: bool = False) -> WeightsReport:
    """Fills a model from a file.

    Args:
        model: A :class:`cait_dist.models.Cait`; its parameters keep their dtype and device.
        path: ``.safetensors``, or ``.pth`` of deit or timm.
        strict_head: Make a head with another number of classes an error instead of leaving it out.

    Returns:
        What was loaded, resized and left out.

    Raises:
        ValueError: If the file is missing, damaged, holds more than tensors, or does not fit the model. The model is
            unchanged then.
    """
    path = Path(path)
    return fit_weights(model, read_state_dict(path), path, strict_head=strict_head)


def fit_weights(
    model: nn.Module, weights: dict[str, Tensor], path: Path, *, strict_head: bool = False
) -> WeightsReport:
    """Fills a model with tensors by name, as :func:`load_weights`.

    Args:
        model: See there.
        weights: Names to tensors; changed where something had to be resized or left out.
        path: Where they come from, for messages.
        strict_head: See there.

    Raises:
        ValueError: If they do not fit the model, which is unchanged then.
    """
    expected = model.state_dict()
    resized = _fit_positions(weights, expected)
    dropped = None if strict_head else _drop_head(weights, expected)
    _check_fit(path, weights, expected)
    loaded = len(weights) - (2 if dropped else 0)
    model.load_state_dict(weights)
    return WeightsReport(path, loaded, resized, dropped)


def save_weights(
    model_or_state_dict: nn.Module | Mapping[str, Tensor],
    path: str | Path,
    *,
    format: Literal["timm", "deit", "own"] = "timm",  # noqa: A002 - the word users will type
) -> None:
    """Writes weights so that timm or deit can read them; the file appears complete or not at all.

    Args:
        model_or_state_dict: A model, or its state dict. Of the latter nobody knows whether others have such a model.
        path: ``.safetensors`` for timm, ``.pth`` for deit. Folders on the way are made.
        format: ``timm`` for safetensors with plain names, ``deit`` for a pickle ``{"model": {"module.…": tensor}}``;
            ``own`` as timm's, for variants that only this project has.

    Raises:
        NoSuchModelError: If timm or deit has no such model.
        ValueError: If the format is unknown or the file name does not end as the format asks.
    """
    path = Path(path)
    if (suffix := _SUFFIX_OF_FORMAT.get(format)) is None:
        raise ValueError(f"unknown format {format!r}; choose 'timm' or 'own' (.safetensors) or 'deit' (.pth)")
    if path.suffix != suffix:
        raise ValueError(
            f"format {format!r} is written to a {suffix} file, got {path}; rename it or choose the other format"
        )
    if format != "own" and isinstance(arch := getattr(model_or_state_dict, "arch", None), Architecture):
        refuse_foreign(arch, format)
    source = model_or_state_dict.state_dict() if isinstance(model_or_state_dict, nn.Module) else model_or_state_dict
    tensors = {name.removeprefix(_PREFIX): t.detach().cpu().contiguous() for name, t in source.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    if suffix == ".safetensors":
        save_file(tensors, partial, metadata={"format": "pt"})
    else:
        torch.save({"model": {_PREFIX + name: t for name, t in tensors.items()}}, partial)
    partial.replace(path)


def resize_pos_embed(pos_embed: Tensor, new_grid: int) -> Tensor:
    """Interpolates a position embedding to another patch grid, as fine-tuning at a higher resolution needs.

    Bicubic without aligned corners, on square grids, in float32 or wider: what the authors do before they fine-tune.

    Args:
        pos_embed: (1, N, d), patches in reading order; N must be a square.
        new_grid: Patches along one side of the new grid.

    Returns:
        (1, new_grid ** 2, d) in the dtype of ``pos_embed``; ``pos_embed`` itself if the grid stays.

    Raises:
        ValueError: If the patches do not form a square.
    """
    old_grid = math.isqrt(pos_embed.shape[1])
    if old_grid**2 != pos_embed.shape[1]:
        raise ValueError(
            f"a position embedding of {pos_embed.shape[1]} patches is no square grid; only square images can be resized"
        )
    if old_grid == new_grid:
        return pos_embed
    grid = pos_embed.to(stream_dtype(pos_embed)).unflatten(1, (old_grid, old_grid)).permute(0, 3, 1, 2)  # (1, d, g, g)
    grid = F.interpolate(grid, size=(new_grid, new_grid), mode="bicubic", align_corners=False)
    return grid.flatten(2).transpose(1, 2).to(pos_embed.dtype)


def _fit_positions(weights: dict[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Resizes the position embedding in place where only its number of patches differs."""
    old, new = weights.get("pos_embed"), expected["pos_embed"]
    if old is None or old.ndim != 3 or old.shape[1] in (0, new.shape[1]):
        return None
    if old.shape[::2] != new.shape[::2] or not old.is_floating_point():
        return None  # of another width, or no embedding at all
    slots = _class_slots(old)
    if slots != _class_slots(new):
        return None  # another design: its tensors will not fit either
    sides = math.isqrt(old.shape[1] - slots), math.isqrt(new.shape[1] - slots)
    weights["pos_embed"] = torch.cat((old[:, :slots], resize_pos_embed(old[:, slots:], sides[1])), dim=1)
    return sides


def _class_slots(pos_embed: Tensor) -> int:
    """1 where the class token has a position of its own before the patches': no two squares lie that close."""
    positions = pos_embed.shape[1]
    return int(math.isqrt(positions) ** 2 != positions and math.isqrt(positions - 1) ** 2 == positions - 1)


def _drop_head(weights: dict[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Puts the model's own head in place of one with another number of classes."""
    if "head.weight" not in weights or "head.bias" not in weights:
        return None
    classes = weights["head.weight"].shape[0], expected["head.weight"].shape[0]
    if classes[0] == classes[1]:
        return None
    weights |= {name: expected[name] for name in ("head.weight", "head.bias")}
    return classes


def _check_fit(path: Path, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    complaints = {
        "missing from the file": [name for name in expected if name not in weights],
        "unknown to the model": [name for name in weights if name not in expected],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in expected
            if name in weights and weights[name].shape != expected[name].shape
        ],
    }
    found = [f"{len(names)} {what}: {_abridge(names)}" for what, names in complaints.items() if names]
    if found:
        raise WeightsError(f"{path} does not fit the model; is it the same variant? " + "; ".join(found))


def _abridge(names: list[str], limit: int = 12) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
