"""Read files of weights that anybody may have made: names to tensors, and nothing else.

A ``.pth`` file is a pickle, a small program. torch reads it with ``weights_only``, which runs no code of the file's
choice but does build what the file describes. So what comes out is looked at once more: plain tensors on the CPU, none
with more elements than the file has bytes (a view may repeat one number for ever), under names that can be printed. And
a ``.pth`` is a zip: torch never compresses one, and a compressed one, which may unpack to a thousand times its size, is
refused unread.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

_PREFIX = "module."
_WRAPPERS = ("model", "state_dict")
_TORCH_SUFFIXES = (".pth", ".pt", ".bin")
_AGAIN = "download or export it again"


class WeightsError(ValueError):
    """A file of weights that is missing, damaged, or holds something else; the message names it and the remedy."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads a file into a flat state dict with plain names, whatever it is wrapped in.

    Raises:
        WeightsError: If the file is missing, damaged, of an unknown kind, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; check the path, or download the file first")
    if path.suffix != ".safetensors" and path.suffix not in _TORCH_SUFFIXES:
        raise WeightsError(f"{path} is neither .safetensors nor {', '.join(_TORCH_SUFFIXES)}; rename or convert it")
    content = _unwrapped(path, _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path))
    for name, tensor in content.items():
        if fault := _fault(name, tensor, path.stat().st_size):
            raise WeightsError(f"{path} {fault}; ask its author for plain tensors, or {_AGAIN}")
    return {name.removeprefix(_PREFIX): tensor for name, tensor in content.items()}


def _unwrapped(path: Path, content: object) -> dict[str, Tensor]:
    # As dict's own methods see it: a pickle may hang attributes of any name on what it builds.
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(inner := dict.get(content, wrapper), dict):
            content = inner
    entries = dict(dict.items(content)) if isinstance(content, dict) else None
    if entries is None or not all(isinstance(tensor, Tensor) for tensor in entries.values()):
        raise WeightsError(
            f"{path} holds no state dict; expected tensors by name, bare or under a key {' or '.join(_WRAPPERS)}"
        )
    return entries


def _fault(name: object, tensor: Tensor, most_bytes: int) -> str | None:
    """What is wrong with an entry, or None."""
    if not isinstance(name, str) or not name.isprintable() or len(name) > 1000:
        return f"holds a name that is none: {on_a_line(repr(name))}"
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.layout != torch.strided or tensor.is_quantized:
        return f"holds {name}, which is no plain tensor"
    if tensor.device.type != "cpu":
        return f"holds {name} without its values"
    # A tensor is stored as it is, so what claims more elements than that repeats them.
    if tensor.numel() * tensor.element_size() > most_bytes:
        return f"holds {name} of {tuple(tensor.shape)}, which is more than the file can hold"
    return None


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except Exception as error:  # besides its own errors, those of torch, about types and shapes that it does not know
        raise WeightsError(f"{path} is damaged or no safetensors file ({on_a_line(str(error))}); {_AGAIN}") from None


def _read_pickle(path: Path) -> object:
    try:
        if zipfile.is_zipfile(path):
            _refuse_compressed(path)
        # Training checkpoints of deit hold their command line beside the weights: a Namespace, plain data.
        allowed = torch.serialization.safe_globals([argparse.Namespace])
        with allowed, warnings.catch_warnings(), _Bounded(path) as file:
            warnings.simplefilter("ignore")  # about the age of the format, on lines of their own
            return torch.load(file, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise WeightsError(
                f"{path} is a pickle that would run {on_a_line(code[1])} when loaded; refused, because it could run "
                "any code. Ask its author for a .safetensors file, or for a .pth with nothing but tensors"
            ) from None
        raise WeightsError(f"{path} is damaged, or no file of weights; {_AGAIN}") from None
    except Exception as error:  # a pickle calls what it likes of what is allowed, with arguments that do not fit
        raise WeightsError(f"{path} is damaged or incomplete ({on_a_line(str(error))}); {_AGAIN}") from None


def _refuse_compressed(path: Path) -> None:
    with zipfile.ZipFile(path) as packed:
        entries = packed.infolist()
    stated = sum(entry.file_size for entry in entries)
    if stated > path.stat().st_size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WeightsError(f"{path} is compressed, to be unpacked to {stated:,} bytes or more; unpack or convert it")


class _Bounded(io.BufferedReader):
    """A file of which nobody gets memory for more than is left of it, whatever length a pickle states."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file."""
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


def on_a_line(text: str, limit: int = 300) -> str:
    """Another package's words as part of a message: on one line, nothing in it that a terminal would obey."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
