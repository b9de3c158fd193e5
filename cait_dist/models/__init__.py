"""The CaiT network, its ten variants and their weights; usable from a notebook with torch alone.

>>> from cait_dist.models import create_model
>>> model = create_model("cait_xxs24_224", num_classes=10)
"""

from .architecture import Architecture
from .attention import attention_backend
from .cait import Cait, no_weight_decay_names
from .layer_order import layer_of, num_layers
from .zoo import architecture, create_model, list_models

__all__ = [
    "Architecture",
    "Cait",
    "architecture",
    "attention_backend",
    "create_model",
    "layer_of",
    "list_models",
    "no_weight_decay_names",
    "num_layers",
]
