"""The configuration: one frozen ``RunConfig``, from YAML files and ``key=value`` arguments, wrong only once.

::

    base: recipe/paper.yaml            # configs/digits.yaml, on top of another file
    name: digits
    data: {path: runs/digits-shards}
    optimizer:
      lr: 1e-3

    >>> loaded = load_config("configs/digits.yaml", ["training.epochs=20"])
    >>> loaded.config.optimizer.lr, loaded.origins["training.epochs"]
    (0.001, "command line 'training.epochs=20'")

What wins: defaults < ``base:`` files < the file < the command line. Whatever is wrong, in however many files, comes as
one ``ConfigError`` whose text names for each problem the place, the key, what it must be and what was likely meant.

The room, from the ground up:

========================  =====================================================================================
``section`` … ``run``     the schema, one small file for each section; ``run`` composes them and holds what spans
``errors``                ``Place``, ``Problem``, ``ConfigError``
``scalars``               what a word of YAML means, and how a value is spelled
``yaml_places``           YAML to values and the place of each
``fields``, ``suggest``   the schema as a table; the nearest key or value to what was written
``explain``               pydantic's findings in plain words
``load``, ``dump``        in and out
``validate``              many files at once
========================  =====================================================================================

It imports pydantic and PyYAML, nothing of ours, and nothing heavy: ``cait --help`` and login nodes load it at once.
"""

from .dump import config_to_yaml, describe, diff, flatten
from .errors import ConfigError, Place, Problem
from .fields import schema_help
from .load import LoadedConfig, load_config
from .run import RunConfig
from .validate import validate

__all__ = [
    "ConfigError",
    "LoadedConfig",
    "Place",
    "Problem",
    "RunConfig",
    "config_to_yaml",
    "describe",
    "diff",
    "flatten",
    "load_config",
    "schema_help",
    "validate",
]
