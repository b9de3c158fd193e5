"""Where the images are and how they are read."""

from typing import Literal

from pydantic import Field

from .section import DataPlace, Section, UserPath


class RemoteConfig(Section):
    """Only for a `data.path` that is a URL: shards are fetched whole and kept on the node while there is room."""

    cache_dir: UserPath | None = Field(
        None, description="folder on a disk of the node that holds the cache; null: its folder for temporary files"
    )
    cache_gb: float = Field(
        100, gt=0, description="most the cache may ever hold, in 10^9 bytes; all runs and ranks of a node share it"
    )
    retries: int = Field(8, ge=0, description="new attempts at a file, each after twice the wait (0.2 s to 30 s)")
    timeout: float = Field(30, gt=0, description="seconds without an answer or a byte that end an attempt")


class DataConfig(Section):
    """A folder written by ``cait prep``, or any folder of WebDataset tars or FFCV betons."""

    path: DataPlace = Field(
        description="the folder that `cait prep --out` wrote (holds train/, val/, …), or its URL (http, s3, …)"
    )
    format: Literal["auto", "webdataset", "ffcv"] = Field(
        "auto", description="which shards of a split to read; auto: the tars if there are any, else the beton"
    )
    decoder: Literal["exact", "ffcv"] = Field(
        "exact",
        description="exact: processes, bicubic crops, any format; ffcv: FFCV's threads and area filter, betons only",
    )
    train_split: str = Field("train", description="the split to train on")
    order: Literal["full", "block"] = Field(
        "full", description="full: any sample may follow any other; block: by shards"
    )
    block_shards: int = Field(8, ge=1, description="order: block — shards that are shuffled together")
    repeats: int = Field(1, ge=1, description="copies of a sample in one pass (repeated augmentation; the paper: 3)")
    workers: int = Field(4, ge=0, description="decoding processes (decoder ffcv: threads) per rank; 0: none of its own")
    prefetch: int = Field(4, ge=1, description="micro-batches each worker keeps ready")
    on_corrupt: Literal["stop", "skip"] = Field(
        "stop", description="a corrupt image or shard in training: stop ends the run; skip lets other samples stand in"
    )
    most_corrupt_share: float = Field(
        0.001, ge=0, le=1, description="on_corrupt: skip — part of the samples (at least 1) beyond which the run ends"
    )
    remote: RemoteConfig = RemoteConfig()
