"""A small prepared data set, made once for all tests of this folder."""

from pathlib import Path

import pytest
from image_folders import write_data_set


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 training images and 37 for evaluation, in shards of at most 16, five classes."""
    return write_data_set(tmp_path_factory.mktemp("data"), {"train": 120, "val": 37})
