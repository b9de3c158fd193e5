"""Where the images are and how they are read."""

from typing import Literal

from pydantic import Field

from .section import Section, UserPath


class DataConfig(Section):
    """A folder written by ``cait prep``, or any folder of WebDataset tars."""

    path: UserPath = Field(description="the folder that `cait prep --out` wrote (holds train/, val/, …)")
    train_split: str = Field("train", description="the split to train on")
    order: Literal["full", "block"] = Field(
        "full", description="full: any sample may follow any other; block: by shards"
    )
    block_shards: int = Field(8, ge=1, description="order: block — shards that are shuffled together")
    repeats: int = Field(1, ge=1, description="copies of a sample in one pass (repeated augmentation; the paper: 3)")
    workers: int = Field(4, ge=0, description="decoding processes per rank; 0 decodes in the training process")
    prefetch: int = Field(4, ge=1, description="micro-batches each worker keeps ready")
