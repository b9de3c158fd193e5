"""The dtype of matrix products, in which autocast has a say."""

import torch
from torch import Tensor


def product_dtype(x: Tensor) -> torch.dtype:
    """That in which a tensor takes part in a matrix product, here and now; a float64 keeps its own."""
    return torch.get_autocast_dtype(x.device.type) if autocasts(x.device) and x.dtype != torch.float64 else x.dtype


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on there; devices that know no autocast may be asked, too."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
