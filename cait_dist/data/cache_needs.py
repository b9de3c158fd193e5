"""Whether the cache of remote shards is large enough for the chosen order: known before training starts.

A cache that is too small would not fail; it would fetch the same shards again and again, and training would wait.
"""

from __future__ import annotations

from collections.abc import Sequence

from cait_dist.config.data import DataConfig
from cait_dist.config.section import is_url
from data_prep.manifest import ShardInfo

from .errors import CacheError
from .reader_webdataset import WebDatasetReader, open_split


def check_cache(data: DataConfig, evaluation_splits: Sequence[str]) -> None:
    """Compare the bound of the cache with what training needs at hand; local data need none.

    Raises:
        CacheError: with the numbers, if it is too small.
        DataError: if a split cannot be opened.
    """
    if not is_url(data.path):
        return
    train = _shards(data, data.train_split)
    evaluation = [shard for split in evaluation_splits for shard in _shards(data, split)]
    if needed_bytes(train, evaluation, data) > data.remote.cache_gb * 1e9:
        raise CacheError(_too_small(train, evaluation, data))


def needed_bytes(train: Sequence[ShardInfo], evaluation: Sequence[ShardInfo], data: DataConfig) -> int:
    """The most that must be at hand: all shards, or two windows of the largest; and the evaluation sets."""
    if data.order == "full":
        return sum({shard.sha256: shard.bytes for shard in (*train, *evaluation)}.values())
    windows = sorted((shard.bytes for shard in train), reverse=True)[: 2 * data.block_shards]
    return sum(windows) + sum({shard.sha256: shard.bytes for shard in evaluation}.values())


def _shards(data: DataConfig, split: str) -> Sequence[ShardInfo]:
    reader = open_split(data.path, split, data.format, data.remote)
    assert isinstance(reader, WebDatasetReader), "what lies beyond a URL are tars"
    return reader.shards


def _too_small(train: Sequence[ShardInfo], evaluation: Sequence[ShardInfo], data: DataConfig) -> str:
    need = needed_bytes(train, evaluation, data)
    what = "all shards" if data.order == "full" else f"two windows of {data.block_shards} shards (data.block_shards)"
    text = (
        f"'data.remote.cache_gb' is {data.remote.cache_gb:g}, but order '{data.order}' needs {what} and the evaluation"
        f" sets at hand, {_gb(need)}: raise it"
    )
    if data.order == "block":
        return f"{text}, or lower data.block_shards"
    in_blocks = needed_bytes(train, evaluation, data.model_copy(update={"order": "block"}))
    return f"{text}, or set data.order=block, which needs {_gb(in_blocks)}" if in_blocks < need else text


def _gb(size: int) -> str:
    return f"{size / 1e9:.4g} GB ({size:,} bytes)"
