"""The model that a run starts from: fresh, or with the weights of another run or of a file.

So a network that was pre-trained at 224 px goes on at 384 px, and one that knows ImageNet's classes learns those of
flowers: the position embedding is resized, and a head of another width is left fresh.
"""

import torch

from cait_dist.config import RunConfig
from cait_dist.config.model import ModelConfig
from cait_dist.models import Cait, create_model
from cait_dist.models.weights import fit_weights, load_weights

from ..saving.saved_weights import find_weights, open_weights
from .plan import CannotStartError


def build_model(config: ModelConfig, num_classes: int) -> Cait:
    """The model as configured, with freshly drawn weights."""
    return create_model(config.name, num_classes=num_classes, **config.overrides)


def initial_model(config: RunConfig, num_classes: int, *, resumed: bool = False) -> tuple[Cait, list[str]]:
    """The model that a run starts from, the same on every rank, and what is to be said about loaded weights.

    Args:
        config: of the run
        num_classes: width of the head
        resumed: the weights will come from a checkpoint, so those to start from need not be there any more

    Raises:
        CannotStartError: if the weights to start from are missing, damaged or of another model
    """
    torch.manual_seed(config.seed)
    model = build_model(config.model, num_classes)
    if config.model.init_from is None or resumed:
        return model, []
    try:
        return model, [_load(model, config.model)]
    except ValueError as error:
        raise CannotStartError([f"'model.init_from': {error}"]) from error


def missing_weights(config: RunConfig) -> list[str]:
    """What is in the way of loading the weights to start from, as far as can be told without reading them."""
    place = config.model.init_from
    if place is None or place.is_file():
        return []
    if not place.is_dir():
        return [f"'model.init_from': there is no {place}: pass a run, one of its checkpoints, or a file of weights"]
    try:
        find_weights(place, None, config.model.init_weights)
    except ValueError as error:
        return [f"'model.init_from': {error}"]
    return []


def _load(model: Cait, config: ModelConfig) -> str:
    assert config.init_from is not None
    if config.init_from.is_file():
        return str(load_weights(model, config.init_from))
    _, _, weights, step, kind, _ = open_weights(config.init_from, None, config.init_weights)
    return f"{fit_weights(model, weights, config.init_from)} ({kind}, step {step})"
